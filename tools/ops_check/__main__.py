"""Check the installed systemd unit and the container image; `tools/ops_check.sh` runs this in a separate Debian system.

ops_check list          print the list of checks
ops_check unit|image    run the checks of this part: prints a line for each, exit code 1 if a check fails

The checks kill and reconfigure the service, so run them only in a system that is made for them.
"""

from __future__ import annotations

import os
import sys

import image
import unit
from checking import CHECKS

PARTS = (unit, image)  # importing them fills CHECKS in this order


def main(part: str) -> int:
    """Run the checks of a part in their order."""
    failed = 0
    for promise, function in CHECKS[part].items():
        try:
            word, figure = "held", function()
        except Exception as error:
            word, figure = "BROKEN", f"{type(error).__name__}: {error}"
            failed += 1
        print(f"{word:8}{promise}" + (f" [{figure}]" if figure else ""), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["list"]:
        for each, checks in CHECKS.items():
            print("\n".join(f"{each}: {promise}" for promise in checks))
    elif len(sys.argv) == 2 and sys.argv[1] in CHECKS:
        if os.geteuid() != 0 or os.environ.get("STREAMSER_OPS_CHECK") != "1":
            sys.exit("ops_check: changes the system on which it runs; use tools/ops_check.sh")
        sys.exit(main(sys.argv[1]))
    else:
        sys.exit(__doc__)
