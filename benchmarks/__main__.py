"""Everything that is measured: ``make bench``, or ``python -m benchmarks``."""

import tempfile
from pathlib import Path

from benchmarks import dry_run, replot, study
from benchmarks.measure import RESULTS, ROOT, show_machine

if __name__ == "__main__":
    show_machine()
    with tempfile.TemporaryDirectory(prefix="laglens-bench-") as folder:
        study.main(Path(folder))
        replot.main(Path(folder))
    dry_run.main()
    print(f"\nKept in {RESULTS.relative_to(ROOT)}/")
