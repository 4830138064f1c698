"""`python -m experiments.report FOLDER`: derive summary.csv, report.md and the chart again."""

import sys

from experiments.reports.report import main

if __name__ == "__main__":
    sys.exit(main())
