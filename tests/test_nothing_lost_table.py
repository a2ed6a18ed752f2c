"""The second table of docs/nothing_lost.md: what is tried in every test run, and by which test.

``make traps`` writes it anew.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "nothing_lost.md"
HEADING = "## Tried in every test run\n"

KILLED, DISK, BROKEN, CHANGED, CODE, FUZZ, ORDER = (
    "killed", "disk and permission", "broken files", "changed meanwhile", "hostile input",
    "random input", "threads and order",
)  # fmt: skip
# Kind, what happens, what becomes of it, the test below tests/.
ROWS = [
    (KILLED, "`glacier run`, at random moments", "goes on, the same tables",
     "workflow/test_nothing_lost.py::test_a_run_killed_at_random_moments_ends_with_the_same_tables"),
    (KILLED, "`glacier run`, while its kernel lives on", "waits for the kernel's end, goes on",
     "workflow/test_batch.py::test_a_killed_process_leaves_no_lock_and_nothing_half_written"),
    (KILLED, "a kernel, as where memory runs out", "one line with the cell",
     "workflow/test_notebooks.py::test_a_kernel_that_dies_is_reported_and_ends_with_1"),
    (KILLED, "a training, at any moment", "goes on to the same weights",
     "training/test_module.py::test_a_training_killed_at_any_moment_comes_to_the_same_weights"),
    (KILLED, "a training, by Ctrl-C", "goes on",
     "training/test_module.py::test_an_interruption_is_one_and_leaves_the_state"),
    (KILLED, "`glacier predict`, in the middle of a scene", "goes on to the same map",
     "prediction/test_scenes.py::test_a_killed_process_goes_on_to_the_same_result"),
    (KILLED, "a worker of `glacier predict` over many scenes", "the same maps",
     "prediction/test_many_scenes.py"
     "::test_results_do_not_depend_on_workers_even_if_one_is_killed"),
    (KILLED, "`glacier predict` over many scenes, by Ctrl-C", "goes on",
     "prediction/test_many_scenes.py::test_ctrl_c_keeps_what_is_finished"),
    (KILLED, "the building of a patch store", "built again, remains removed",
     "datasets/test_patches.py::test_what_a_killed_build_left_is_removed_in_the_end"),
    (DISK, "a disk that gets full under a run", "one line; goes on where there is room",
     "workflow/test_nothing_lost.py"
     "::test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room"),
    (DISK, "a disk that gets full under a map", "one line; goes on",
     "prediction/test_scenes.py::test_a_full_disk_is_said_and_leaves_no_broken_file"),
    (DISK, "too little room for a map", "one line before the work",
     "prediction/test_scenes.py::test_too_little_room_is_said_before_the_work"),
    (DISK, "a raster that cannot be written to its end", "one line, the old file stays",
     "raster/test_io.py::test_where_writing_fails_nothing_is_left_and_the_old_file_stays"),
    (DISK, "any file or folder that cannot be written to its end", "the old one stays",
     "test_files.py::test_atomic_path_keeps_the_old_file_on_failure"),
    (DISK, "a patch store that cannot be built to its end", "nothing is left",
     "datasets/test_patches.py::test_a_failed_build_leaves_nothing"),
    (DISK, "output to a full disk", "one line", "traps/test_tracebacks.py::test_full_disk"),
    (DISK, "`reports/` that is read-only", "one line",
     "workflow/test_nothing_lost.py::test_a_folder_that_is_read_only_is_one_line"),
    (DISK, "`reports/` without permission", "one line",
     "workflow/test_nothing_lost.py::test_a_run_without_permission_to_write_is_one_line"),
    (BROKEN, "`run.json`", "one line, the file stays",
     "workflow/test_nothing_lost.py::test_a_broken_record_of_a_run_is_one_line_and_is_kept"),
    (BROKEN, "a checkpoint", "one line", "models/test_checkpoint.py"
     "::test_bad_checkpoints_are_user_mistakes"),
    (BROKEN, "the state of a training", "one line",
     "training/test_module.py::test_a_broken_state_is_named_with_the_remedy"),
    (BROKEN, "what a training tells of itself", "trained again",
     "training/test_fitting.py::test_a_fit_whose_files_are_broken_is_made_again"),
    (BROKEN, "a patch store", "one line",
     "datasets/test_store.py::test_a_broken_store_is_one_line"),
    (BROKEN, "`scenes.json` and the items beside it", "made again",
     "prediction/test_many_scenes.py::test_a_broken_record_is_made_anew_from_the_maps"),
    (BROKEN, "a page or notebook of a run that is gone", "made again",
     "workflow/test_notebooks.py::test_a_page_that_was_removed_is_made_again"),
    (BROKEN, "a map of a scene that is gone", "made again",
     "prediction/test_many_scenes.py"
     "::test_finished_scenes_are_not_mapped_again_unless_something_changed"),
    (CHANGED, "an image under a finished run", "executed again",
     "workflow/test_nothing_lost.py"
     "::test_an_input_that_changes_under_a_finished_run_is_noticed"),
    (CHANGED, "the package under a finished run", "executed again",
     "workflow/test_notebooks.py::test_a_change_in_any_file_of_the_package_is_noticed"),
    (CHANGED, "parameters, and back after a failure", "nothing stale passes for finished",
     "workflow/test_notebooks.py"
     "::test_after_a_failure_the_earlier_results_are_not_taken_for_finished"),
    (CHANGED, "the clock, to 1970 and 2096", "nothing",
     "workflow/test_nothing_lost.py::test_a_clock_that_jumps_changes_nothing"),
    (CHANGED, "the version of the package on one store", "a store each, one line",
     "datasets/test_store.py::test_versions_of_the_package_do_not_share_a_store"),
    (CHANGED, "the format of maps", "made again",
     "prediction/test_many_scenes.py::test_maps_of_an_earlier_format_are_made_anew"),
    (CHANGED, "a run that another process is at work on", "the second is refused",
     "workflow/test_batch.py::test_a_run_that_another_process_is_at_work_on_is_refused"),
    (CHANGED, "a map that another process is writing", "the second is refused",
     "prediction/test_scenes.py::test_one_process_at_a_time_writes_a_map"),
    (CHANGED, "the dataset of a run, for a later notebook", "refused",
     "workflow/test_runs.py::test_patches_of_another_dataset_are_refused"),
    (CODE, "a checkpoint that runs code", "refused",
     "models/test_checkpoint.py::test_a_checkpoint_cannot_run_code"),
    (CODE, "an array file that runs code", "refused",
     "raster/test_io.py::test_a_pickle_is_never_run"),
    (CODE, "YAML tags in a manifest; anchors that multiply", "refused",
     "datasets/test_malformed.py::test_manifests"),
    (CODE, "YAML tags in a parameter file", "refused",
     "workflow/test_notebooks.py::test_wrong_parameters_are_refused_in_one_line"),
    (CODE, "members of an archive outside its folder: images", "refused",
     "imagery/test_source.py::test_archive_with_a_member_outside_its_folder"),
    (CODE, "members of an archive outside its folder: outlines", "refused",
     "outlines/test_reading.py::test_outlines_that_cannot_be_read"),
    (CODE, "entities in a product's metadata", "refused",
     "imagery/test_safe.py::test_metadata_that_cannot_be_trusted"),
    (CODE, "entities in a VRT", "not expanded",
     "raster/test_paths.py::test_a_vrt_that_is_none_has_nothing_behind_it"),
    (CODE, "entities in KML", "refused", "outlines/test_reading.py::test_entities_in_kml"),
    (CODE, "addresses in STAC that lead elsewhere", "refused",
     "prediction/test_scene_lists.py::test_addresses_that_lead_elsewhere_are_refused"),
    (CODE, "a downloaded file that points at others", "not opened",
     "imagery/test_download.py::test_a_file_that_points_at_other_files_is_not_opened"),
    (CODE, "names of runs that are paths", "refused",
     "workflow/test_runs.py::test_open_run_refuses_names_that_are_no_folder"),
    (CODE, "names of figures and tables that are paths", "stay inside the run",
     "workflow/test_runs.py::test_names_from_the_data_stay_inside_the_run"),
    (CODE, "values of a sweep that are paths", "stay names",
     "workflow/test_batch.py::test_names_of_runs_stay_names_of_folders_whatever_the_values"),
    (CODE, "names that are HTML: a run's page", "text",
     "workflow/test_pages.py::test_scripts_of_the_data_are_inert"),
    (CODE, "names that are HTML: a notebook's page", "text",
     "workflow/test_pages.py::test_a_notebook_escapes_outputs_and_its_title"),
    (CODE, "names that are HTML: the interactive map", "text",
     "plotting/test_webmap.py::test_nothing_is_fetched_and_no_name_becomes_code"),
    (CODE, "names with control characters for a terminal", "printed harmlessly",
     "datasets/test_malformed.py::test_hostile_text_is_printed_harmlessly"),
    (CODE, "text of a catalogue", "text",
     "imagery/test_download.py::test_hostile_text_of_a_catalogue_stays_text"),
    (CODE, "a parameter of a notebook that is code", "text",
     "workflow/test_nothing_lost.py::test_a_parameter_that_is_code_stays_text"),
    (CODE, "cells of a CSV that a spreadsheet would run", "text",
     "test_files.py::test_write_csv_leaves_no_formula_to_a_spreadsheet"),
    (FUZZ, "manifests", "read or refused",
     "test_fuzz.py::test_any_manifest_is_read_or_refused"),
    (FUZZ, "bytes for a manifest or parameters", "read or refused",
     "test_fuzz.py::test_any_bytes_are_no_manifest_and_no_parameters"),
    (FUZZ, "parameters and sweeps", "planned or refused",
     "test_fuzz.py::test_any_parameters_are_planned_or_refused"),
    (FUZZ, "GeoJSON", "read or refused", "test_fuzz.py::test_any_geojson_is_read_or_refused"),
    (FUZZ, "GeoPackages with changed bytes", "read or refused",
     "test_fuzz.py::test_outlines_with_any_bytes_changed_are_read_or_refused"),
    (FUZZ, "headers of rasters", "read or refused",
     "test_fuzz.py::test_a_raster_with_any_header_is_read_or_refused"),
    (FUZZ, "rasters with changed bytes", "read or refused",
     "test_fuzz.py::test_a_raster_with_any_bytes_changed_is_read_or_refused"),
    (ORDER, "a map, with one thread and two, twice, from another folder",
     "the same map; with another number of threads it agrees to rounding",
     "prediction/test_same_numbers.py"
     "::test_maps_do_not_depend_on_threads_the_working_directory_or_the_time"),
    (ORDER, "many scenes on one process and on several", "the same maps",
     "prediction/test_many_scenes.py"
     "::test_results_do_not_depend_on_workers_even_if_one_is_killed"),
    (ORDER, "a training, twice with one seed", "the same weights",
     "training/test_fitting.py"
     "::test_the_same_seed_gives_the_same_weights_and_another_seed_others"),
    (ORDER, "decisions on patches, with an index in another order", "the same patches",
     "datasets/test_splitting.py::test_positions_do_not_depend_on_the_order_of_the_index"),
    (ORDER, "a run, with `glacier reproduce`", "says what differs",
     "workflow/test_batch.py::test_a_run_is_reproduced_beside_itself_and_what_differs_is_said"),
]  # fmt: skip


@cache
def functions_of(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("test", sorted({row[-1] for row in ROWS}))
def test_each_row_has_its_test(test):
    name, _, function = test.partition("::")
    assert function in functions_of(name)


def table() -> str:
    counts = Counter(row[0] for row in ROWS)
    told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    lines = [f"| {kind} | {what} | {outcome} | `{test.partition('::')[0]}` |"
             for kind, what, outcome, test in ROWS]  # fmt: skip
    head = ["", f"{len(ROWS)}: {told}.", "", "| kind | what | what becomes of it | test |"]
    return "\n".join([*head, "|---|---|---|---|", *lines, ""])


def write_page() -> None:
    before, heading, _ = PAGE.read_text(encoding="utf-8").partition(HEADING)
    PAGE.write_text(before + heading + table(), encoding="utf-8")


def test_the_page_holds_the_table():
    _, heading, after = PAGE.read_text(encoding="utf-8").partition(HEADING)
    assert heading
    assert after == table(), "run `make traps`"


if __name__ == "__main__":
    write_page()
