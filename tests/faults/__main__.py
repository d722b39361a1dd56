"""`python -m tests.faults [SCENARIO…]`: every fault, the figures, and a line for each violation."""

import sys

from tests.faults import campaign, tracing


def main() -> int:
    if reason := tracing.missing():
        print(reason, file=sys.stderr)  # noqa: T201 - a script
        return 2
    names = sys.argv[1:] or campaign.SCENARIOS
    show = sys.stderr.isatty()
    report = campaign.campaign(
        names, say=lambda text: sys.stderr.write(f"\r{text}") if show else None
    )
    print(report)  # noqa: T201 - a script
    for line in (*report.violations, *report.missed):
        print(line)  # noqa: T201 - a script
    return 1 if report.violations or report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
