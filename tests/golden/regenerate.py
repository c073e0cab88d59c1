"""`python -m tests.golden.regenerate`: write the golden files anew. Review the diff."""

from __future__ import annotations

import json

from tests.golden import summaries as s


def main() -> None:
    """Write both files."""
    programs = {s.name(*example): s.program_summary(*example) for example in s.EXAMPLES}
    s.PROGRAMS.write_text(json.dumps(programs, indent=1) + "\n")
    reports = {s.name(*pair): s.report_summary(*pair) for pair in s.SHOWN}
    s.REPORTS.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
