"""The command ``glacier``: it reads its arguments and calls the package.

What a command needs is imported in its function: torch alone takes seconds, which
``glacier --help`` or a wrong argument should not cost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glacier_utils.errors import GlacierError, did_you_mean, plain
from glacier_utils.files import json_text, write_csv

if TYPE_CHECKING:
    from glacier_utils.datasets.dataset import Dataset


def parser() -> argparse.ArgumentParser:
    """Return the argument parser with all commands."""
    top = argparse.ArgumentParser(
        prog="glacier", description="Map glaciers in satellite images with deep learning."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, call: Callable[[argparse.Namespace], int], text: str
    ) -> Callable[..., argparse.Action]:
        made = commands.add_parser(name, help=text)
        made.set_defaults(call=call)
        return made.add_argument

    add = command("sample", _sample, "make the synthetic sample with known truth")
    add("--name", default="sample", help="folder under data/ (default: sample)")
    add("--seed", type=_number, default=0, help="another seed, another landscape")
    add("--areas", type=_number, default=0, metavar="N",
        help="further test landscapes, test2 and so on, for studies (default: 0)")  # fmt: skip

    add = command("fetch", _fetch, "make a dataset out of a Sentinel-2 catalogue")
    add("--bbox", nargs=4, type=float, required=True, metavar=("W", "S", "E", "N"),
        help="the box in degrees: west south east north")  # fmt: skip
    add("--dates", nargs="+", required=True, metavar="DATE",
        help="months (2023-07: the best image of the month) or days (2023-07-24)")  # fmt: skip
    add("--name", required=True, help="folder under data/")
    add("--endpoint", metavar="URL", help="STAC API (default: Earth Search v1)")
    add("--collection", help="in the catalogue (default: sentinel-2-l2a)")
    add("--max-cloud", type=float, metavar="PERCENT", help="an item's (default: 60)")
    add("--outlines", type=Path, metavar="FILE", help="GLIMS or RGI, cut to the box")
    add("--crs", metavar="EPSG:CODE", help="of the grid (default: UTM of the box)")

    add = command("check", _check, "say what is in a dataset and what is wrong with it")
    add("dataset", nargs="?", metavar="DATASET", help="name under data/, folder or manifest")
    add("--schema", action="store_true", help="print dataset.yaml's JSON schema, for editors")
    add("--json", action="store_true", help="print JSON and nothing else")

    add = command("run", _run, "execute the notebooks and write their reports")
    add("parameters", nargs="*", metavar="PARAMETERS.yaml",
        help="one run per file, or one per combination of values in its sweep")  # fmt: skip
    add("--fresh", action="store_true", help="execute finished notebooks again too")
    add("--jobs", type=_number, default=1, metavar="N",
        help="runs side by side, with Dask, as far as memory allows (default: 1)")  # fmt: skip
    add("--scheduler", metavar="ADDRESS", help="of a Dask cluster to use instead")

    add = command("reproduce", _reproduce, "execute a run again, and say what differs")
    add("run", metavar="RUN", help="name under reports/ or a folder; status 1: tables differ")

    add = command("models", _models, "list the models, or describe one")
    add("name", nargs="?", metavar="NAME", help="say what this model is")
    add("--encoders", nargs="?", const="", metavar="TEXT", help="list encoders that contain TEXT")
    add("--json", action="store_true", help="print JSON and nothing else")

    add = command("train", _train, "train one model on a dataset; again: goes on")
    add("dataset", metavar="DATASET", help="name under data/, folder or manifest")
    add("model", metavar="MODEL", help="see: glacier models")
    add("out", metavar="OUT", type=Path, help="folder for checkpoint and history")
    add("--dates", nargs="+", metavar="DATE", help="to learn from (default: all)")
    add("--members", type=_number, default=1, metavar="N",
        help="networks of as many seeds, each in a folder of OUT")  # fmt: skip
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE",
        help="a field of training settings: steps=3000, loss=focal, devices=2")  # fmt: skip
    add("--patch", dest="patches", action="append", default=[], metavar="NAME=VALUE",
        help="how patches are cut: stride=64, block_m=960")  # fmt: skip
    add("--patches", dest="store", type=Path, metavar="FOLDER",
        help="where they are kept (default: patches/ in the dataset's folder)")  # fmt: skip

    add = command("predict", _predict, "map the glaciers in one scene or many")
    add("checkpoint", metavar="CHECKPOINT", type=Path,
        help="file; OUT of a training, whose members' maps are averaged; or builtin")  # fmt: skip
    add("scenes", nargs="+", metavar="SCENE",
        help="file, folder or pattern; a text file with one per line; a STAC item or search "
        "result")  # fmt: skip
    add("out", metavar="OUT", type=Path, help="folder for the maps, or for one scene a GeoTIFF")
    add("--with", dest="others", action="append", default=[], type=Path, metavar="CHECKPOINT",
        help="a further model; the maps are the mean of all")  # fmt: skip
    add("--window", type=int, help="largest window in pixels (default: 704)")
    add("--overlap", type=int, default=64, help="overlap in pixels (default: 64)")
    add("--flips", action="store_true", help="average over four mirror images")
    add("--date", default="", help="of the image (default: in its name)")
    add("--min-area", dest="min_area_km2", type=_area, default=0.01, metavar="KM2",
        help="smaller glaciers get no outline (default: 0.01)")  # fmt: skip
    add("--bands", metavar="NAME=WHERE,...",
        help="number or file of each band: red=4,green=3,blue=2,nir=8; nir=*_B08.tif")  # fmt: skip
    add("--scale", type=float, help="reflectance = (DN + offset) / scale")
    add("--offset", type=float, help="default for both: as in training")
    add("--nodata", type=float, help="digital number of missing pixels")
    add("--workers", type=int, metavar="N", help="scenes side by side, with Dask")
    add("--scheduler", metavar="ADDRESS", help="of a Dask cluster to use instead")
    add("--retries", type=int, default=2, help="further tries of a scene that fails (default: 2)")
    add("--json", action="store_true", help="print JSON and nothing else")

    add = command("compare", _compare, "put runs side by side: parameters, scores, cost")
    add("runs", nargs="+", metavar="RUN", help="name under reports/ or a folder")
    add("--csv", type=Path, metavar="FILE", help="write it as one table")
    add("--html", type=Path, metavar="FILE", help="write it as a page")
    add("--json", action="store_true", help="print JSON and nothing else")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Those of the command line (default: this process's own).

    Returns:
        Exit status: 0, 1 for a failure of the program, 2 for a mistake that the user can mend.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr: \xf8 for a letter that the terminal lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        status = options.call(options)
        print(end="", flush=True)
        return status
    except GlacierError as error:
        print(f"glacier: {plain(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # As `head` ends that has seen enough: no word, and the status that a shell gives it.
        _close_output()
        return 141
    except OSError as error:
        # No permission, a full disk, a folder where a file should go: for the user to mend.
        if error.strerror is None:
            raise
        where = plain(error.filename or "output could not be written")
        print(f"glacier: {where}: {error.strerror}", file=sys.stderr)
        _close_output()
        return 2
    except KeyboardInterrupt:
        print("glacier: interrupted", file=sys.stderr)
        return 130


def _close_output() -> None:
    """Drop what is left to print, on which Python would fail once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 upwards")
    return int(text)


def _area(text: str) -> float:
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no area in km2; give 0 or more, as 0.01")
    return float(text)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the options that were given."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, "")}


def _dataset(options: argparse.Namespace) -> Dataset:
    """Open the dataset that was named; a path needs no project around it, a name does."""
    from glacier_utils.datasets.dataset import open_dataset
    from glacier_utils.workflow import runs

    root = None if Path(options.dataset).exists() else runs.project_root()
    return open_dataset(options.dataset, root=root)


def _sample(options: argparse.Namespace) -> int:
    from glacier_utils.synthetic.sample import make_sample
    from glacier_utils.workflow import runs

    runs.check_name("dataset", options.name)
    folder = runs.project_root() / "data" / options.name
    if (folder / "dataset.yaml").exists():
        print(f"{runs.relative(folder)}: already there; remove it to make it anew")
        return 0
    manifest = make_sample(folder, seed=options.seed, areas=options.areas, progress=True)
    print(f"{runs.relative(manifest)}: made with seed {options.seed}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from glacier_utils.imagery.download import fetch
    from glacier_utils.workflow import runs

    runs.check_name("dataset", options.name)
    fetched = fetch(
        runs.project_root() / "data" / options.name,
        options.bbox,
        options.dates,
        progress=sys.stderr.isatty(),
        **_given(options, "endpoint", "collection", "max_cloud", "outlines", "crs"),
    )
    print(*fetched.report, sep="\n")
    print(f"{runs.relative(fetched.manifest)}: look at it with `glacier check {options.name}`")
    return 0


def _check(options: argparse.Namespace) -> int:
    from glacier_utils.datasets import checks, manifest

    if options.schema:
        print(json.dumps(manifest.manifest_schema(), indent=2))
        return 0
    if options.dataset is None:
        raise GlacierError("check: name a DATASET, or give --schema")
    found = checks.survey(_dataset(options), progress=True)
    content = {"name": found.name, "folder": found.folder}
    content |= {"images": found.table.to_dict("records")}
    content |= {"findings": found.findings.to_dict("records")}
    print(json_text(content) if options.json else found.text())
    return found.status


def _run(options: argparse.Namespace) -> int:
    from glacier_utils.workflow import batch, runs

    how = {name: getattr(options, name) for name in ("fresh", "jobs", "scheduler")}
    outcomes = batch.run_all(options.parameters, **how)
    if len(outcomes) > 1:
        print(*batch.table(outcomes), sep="\n")
    for one in outcomes:
        if one.status != "finished":
            print(f"glacier: {plain(one.error)}", file=sys.stderr)
        elif len(outcomes) == 1:
            print(f"open {runs.relative(one.run.folder / 'index.html')}")
    failed = [one for one in outcomes if one.status != "finished"]
    return 0 if not failed else 2 if all(one.user_error for one in failed) else 1


def _reproduce(options: argparse.Namespace) -> int:
    from glacier_utils.workflow import batch, notebooks, runs

    try:
        run, told = batch.reproduce(options.run)
    except notebooks.NotebookFailed as error:
        print(f"glacier: {error}", file=sys.stderr)
        return 2 if error.user_error else 1
    print(*(f"{name}: {plain(text)}" for name, text in told.items()), sep="\n")
    print(f"open {runs.relative(run.folder / 'index.html')}")
    tables = [text for name, text in told.items() if name.endswith(".csv")]
    return 0 if all(text.startswith("equal") for text in tables) else 1


def _models(options: argparse.Namespace) -> int:
    from glacier_utils.models import registry

    if options.name and options.encoders is not None:
        raise GlacierError("models: give a NAME or --encoders, not both")
    content: dict[str, Any]
    if options.encoders is not None:
        if not (found := registry.encoders(options.encoders)):
            raise GlacierError(f"no encoder contains {options.encoders!r}; try a part of it")
        content, lines = {"encoders": found}, found
    elif options.name:
        about, source = registry.describe(options.name), registry.reference(options.name)
        count = registry.parameter_count(registry.build(options.name, 4))
        content = {"name": options.name, "description": about, "reference": source}
        content["parameters"] = None if registry.is_pixel_model(options.name) else count
        said = "set when fitted" if content["parameters"] is None else f"{count:,}"
        lines = [about, source, f"parameters for 4 bands: {said}"]
    else:
        known = {name: registry.describe(name) for name in registry.names()}
        content = {"models": known, "decoders": registry.decoders()}
        lines = [f"{name:18} {text}" for name, text in known.items()]
        lines.append("\nDecoders, which stand before an encoder: unet-resnet34, "
                     "upernet-tu-convnext_tiny")  # fmt: skip
        lines += [f"{name:18} {text}" for name, text in registry.decoders().items()]
        lines.append("\nMore: glacier models --encoders [TEXT], glacier models NAME")
    print(json_text(content) if options.json else "\n".join(lines))
    return 0


def _train(options: argparse.Namespace) -> int:
    import inspect

    from glacier_utils.datasets.patches import build_patches
    from glacier_utils.training.fitting import fit, fit_all
    from glacier_utils.training.settings import Settings

    settings = Settings(**_values("--set", options.settings))
    cut = _values("--patch", options.patches)
    takes = inspect.signature(build_patches).parameters
    known = sorted(set(takes) - {"dataset", "folder", "progress"})
    for name, value in cut.items():
        if name not in known:
            raise GlacierError(f"--patch {name}: {did_you_mean(name, known)}")
        cut[name] = _fitting(f"--patch {name}={value}", value, takes[name].annotation)
    store = build_patches(_dataset(options), folder=options.store, progress=True, **cut)
    dates = options.dates or sorted(set(store.index["date"]))
    if options.members > 1:
        seeds = range(settings.seed, settings.seed + options.members)
        found = fit_all([options.model], seeds, store, options.out, dates=dates, settings=settings)
        fits = [*found.values()]
    else:
        fits = [fit(options.model, store, options.out, dates=dates, settings=settings)]
    for done in fits:
        iou = done.validation["iou"]
        iou = "not defined" if iou is None else f"{iou:.3f}"
        print(f"validation IoU {iou}, threshold {done.validation['threshold']}")
        print(done.checkpoint)
    return 0


def _values(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs, the values as YAML: numbers, true and false, lists, text."""
    import yaml

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise GlacierError(f"{option} {pair}: write it as NAME=VALUE, such as steps=3000")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise GlacierError(f"{option} {pair}: the value cannot be read") from error
        # YAML takes 1e-3 for text.
        if isinstance(values[name], str):
            with contextlib.suppress(ValueError):
                values[name] = float(text)
    return values


def _fitting(option: str, value: Any, kind: str) -> Any:
    """Return a value as a parameter of this annotation takes it."""
    if value is None or "float | str" in kind:
        return value
    if "Sequence" in kind:
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    if "str" in kind:
        return str(value)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise GlacierError(f"{option}: must be a number")
    if "int" in kind and value % 1:
        raise GlacierError(f"{option}: must be a whole number")
    return int(value) if "int" in kind else value


def _predict(options: argparse.Namespace) -> int:
    from glacier_utils.prediction.memory import use_one_heap

    use_one_heap()  # before torch is imported, which takes and frees a lot
    from glacier_utils.prediction.many_scenes import map_scenes
    from glacier_utils.prediction.scene_lists import list_scenes
    from glacier_utils.prediction.scenes import assumed_rules, is_map, map_scene

    named = [options.checkpoint, *options.others]
    checkpoints = [file for path in named for file in _members(path)]
    settings = _given(options, "window", "overlap", "flips", "date", "scale", "offset", "nodata",
                      "min_area_km2")  # fmt: skip
    if options.bands:
        settings["bands"] = _bands(options.bands)
    scenes = list_scenes(options.scenes)
    if options.out.suffix.upper() == ".SAFE":
        raise GlacierError(f"{options.out}: is a product; name a folder for the maps as OUT")
    if options.out.suffix.lower() in (".tif", ".tiff"):
        # Before the work, not after it.
        if options.out.is_dir():
            raise GlacierError(f"{options.out}: is a folder; name a file in it, such as ice.tif")
        if options.out.exists() and not is_map(options.out):
            # As where OUT was forgotten, and the last of several scenes stands in its place.
            raise GlacierError(
                f"{options.out}: is there already and no map of this program; name another file as "
                "OUT, or remove it"
            )
        if len(scenes) > 1:
            raise GlacierError(
                f"{options.out}: is one file for {len(scenes)} scenes; name a folder"
            )
        (scene,) = scenes
        files = map_scene(
            checkpoints, scene.images, options.out, progress=True, **scene.settings | settings
        )
        notes = assumed_rules([files])
        print(json_text({"files": files, "notes": notes}) if options.json else
              "\n".join(map(str, files.values())))  # fmt: skip
        for line in notes:
            print(line, file=sys.stderr)
        return 0
    how = {name: getattr(options, name) for name in ("workers", "scheduler", "retries")}
    done = map_scenes(checkpoints, scenes, options.out, **how, **settings)
    print(json_text(asdict(done)) if options.json else "\n".join(done.summary()))
    return done.status


def _members(path: Path) -> list[Path]:
    """Return the checkpoints that a file, a training's folder or the word builtin stands for."""
    if str(path) == "builtin" and not path.exists():
        from glacier_utils.models.pretrained import BUILTIN

        return [BUILTIN]
    if not path.is_dir():
        return [path]
    # What begins with a dot is the work of a training that broke off.
    members = [file for file in sorted(path.glob("*/checkpoint.pt")) if file.parent.name[0] != "."]
    found = [file for file in (path / "checkpoint.pt", *members) if file.is_file()]
    if not found:
        raise GlacierError(f"{path}: holds no checkpoint.pt; name the OUT of a training")
    models = {file.parent.name.partition("-seed")[0] for file in found}
    if len(models) > 1:
        raise GlacierError(
            f"{path}: holds {', '.join(sorted(models))}, not one model's training; name a "
            "checkpoint, and others to average with --with"
        )
    return found


def _bands(text: str) -> list[str] | dict[str, int | str]:
    """Read where the bands are: names in the file's order, or each with its number or file."""
    from glacier_utils.imagery.source import band_names

    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not any(equals for _, equals, _ in pairs):
        return list(band_names([name for name, _, _ in pairs]))
    bands = {name.strip(): where.strip() for name, _, where in pairs}
    if not all(bands.values()) or len(bands) < len(pairs):
        raise GlacierError(f"--bands {text}: write it as red=4,green=3,blue=2,nir=8")
    places = {name: int(where) if where.isdecimal() else where for name, where in bands.items()}
    band_names(places)
    return places


def _compare(options: argparse.Namespace) -> int:
    from glacier_utils.workflow import comparison, pages, runs

    root = runs.project_root()
    folders = [
        Path(name).resolve() if Path(name).is_dir() else root / "reports" / name
        for name in options.runs
    ]
    for folder in folders:
        if not folder.is_dir():
            raise GlacierError(f"{folder}: no such run; see the folders in {root / 'reports'}")
    found = comparison.compare_runs([runs.Run(folder) for folder in dict.fromkeys(folders)])
    if options.csv:
        write_csv(options.csv, found.table())
    if options.html:
        pages.write_comparison(options.html, found)
    print(json_text(found.content()) if options.json else found.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
