"""Every installed distribution and its license; fails if one is not among those allowed.

    python tools/licenses.py [--json]

What a distribution says of itself counts: its SPDX expression, else its license field, else its
classifiers. Exit code 1: one has another license, or says none.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions

# Permissive licenses, and the Mozilla license, whose terms end at the borders of its own files.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSD",
    "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0",
    "Unlicense", "Zlib", "HPND",
}  # fmt: skip

# As older distributions write it; compared in lower case.
NAMES = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "http://www.apache.org/licenses/license-2.0": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd license": "BSD",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "isc license (iscl)": "ISC",
    "python software foundation license": "PSF-2.0",
}
_SHORT = 60  # characters; a longer license field is the text of the license


@dataclass(frozen=True)
class License:
    """What a distribution says."""

    name: str
    version: str
    license: str  # "" where it says nothing

    @property
    def allowed(self) -> bool:
        """Whether one of the alternatives, in all its parts, is allowed."""
        return any(
            all(part.strip("() ") in ALLOWED for part in re.split(r"\s+AND\s+", alternative))
            for alternative in re.split(r"\s+OR\s+", self.license)
        )


def license_of(distribution: Distribution) -> License:
    """The license of one distribution."""
    metadata = distribution.metadata
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License :: OSI Approved ::")
    ]
    field = (metadata.get("License") or "").strip()
    said = metadata.get("License-Expression") or (field if _is_name(field) else "")
    texts = [said] if said else classifiers
    found = " AND ".join(NAMES.get(text.lower(), text) for text in texts)
    return License(distribution.name, distribution.version, found)


def report(licenses: Iterable[License]) -> str:
    """A Markdown table."""
    lines = ["| distribution | version | license | |", "| --- | --- | --- | --- |"]
    for one in licenses:
        mark = "" if one.allowed else "**not allowed**"
        lines.append(f"| {one.name} | {one.version} | {one.license or '(none)'} | {mark} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the list; 1 if something in it is not allowed."""
    found = {one.name.lower(): one for one in map(license_of, distributions())}
    licenses = [found[name] for name in sorted(found)]
    if "--json" in arguments:
        print(json.dumps([vars(one) | {"allowed": one.allowed} for one in licenses], indent=2))
    else:
        print(report(licenses))
    refused = [one.name for one in licenses if not one.allowed]
    if refused:
        print(f"Not allowed, or not said: {', '.join(refused)}.", file=sys.stderr)
    return 1 if refused else 0


def _is_name(field: str) -> bool:
    if field == "UNKNOWN":  # what old setuptools write for nothing
        return False
    return 0 < len(field) <= _SHORT and "\n" not in field and "copyright" not in field.lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
