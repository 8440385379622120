"""Hand this machine's pip settings to a build by buildah: see build-local.sh.

Writes a pip.conf with the settings of `pip config list`, in which every local file or folder has a
place below /run/host, and prints the options of `buildah build` that mount them there, one a line.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

LOCATIONS = ("index-url", "extra-index-url", "find-links", "cert", "client-cert")
PLAIN = ("no-index", "trusted-host", "proxy", "default-timeout", "timeout", "retries")


def settings(listing: str) -> dict[str, str]:
    """The settings of every command in what `pip config list` prints; the environment wins."""
    found: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in ("global", "install", ":env:") and key in LOCATIONS + PLAIN:
            found[key] = ast.literal_eval(value)
    return found


def mounted(location: str, mounts: list[Path]) -> str:
    """`location` as the build sees it; what has to be mounted is appended to `mounts`."""
    scheme = "file://" if location.startswith("file://") else ""
    path = Path(location.removeprefix(scheme))
    if not path.is_absolute() or not path.exists():
        return location
    # The pages of an index on disk may refer to files beside the index.
    root = path.parent if scheme and path.is_dir() else path
    if root not in mounts:
        mounts.append(root)
    return f"{scheme}/run/host/{mounts.index(root)}/{path.relative_to(root)}".removesuffix("/.")


def main(target: Path) -> None:
    """Write the settings to `target` and print the options."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    mounts: list[Path] = []
    lines = ["[global]"]
    for key, value in settings(listing).items():
        if key in LOCATIONS:
            value = "\n    ".join(mounted(location, mounts) for location in value.split())
        lines.append(f"{key} = {value}")
    target.touch(mode=0o600)  # an index may have a password in its address
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"--secret\nid=pip_conf,src={target}")
    for number, path in enumerate(mounts):
        print(f"--volume\n{path}:/run/host/{number}:ro")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
