"""Print requirements.lock for what is installed in this environment."""

from importlib.metadata import distributions

HEADER = """\
# Exact versions of everything the project installs: one set for pip, conda and CI.
# Made with `make lock` from the dependencies in pyproject.toml; edit those, not this file."""
# Packages that the dependencies ask for on some systems only; their own metadata says so, and pip
# would fail to find them elsewhere.
LINUX_ONLY = ("nvidia-", "cuda-", "triton")
NOT_WINDOWS = ("pexpect", "ptyprocess")
LEFT_OUT = {"glacier-utils", "pip"}


def main() -> None:
    print(HEADER)
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
    for name, version in sorted(installed.items()):
        if name in LEFT_OUT:
            continue
        marker = ""
        if name.startswith(LINUX_ONLY):
            marker = ' ; sys_platform == "linux"'
        elif name in NOT_WINDOWS:
            marker = ' ; sys_platform != "win32"'
        print(f"{name}=={version}{marker}")


if __name__ == "__main__":
    main()
