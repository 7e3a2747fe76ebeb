"""Everything that is measured: ``make bench``, or ``python -m benchmarks``."""

import tempfile
from pathlib import Path

from benchmarks import capture, cubes, dry_run, explorer, figures, flow, measures, replot, scale, streaming, study
from benchmarks.measure import RESULTS, ROOT, show_machine

if __name__ == "__main__":
    show_machine()
    with tempfile.TemporaryDirectory(prefix="laglens-bench-") as folder:
        study.main(Path(folder))
        replot.main(Path(folder))
        figures.main(Path(folder))
    dry_run.main()
    explorer.main()
    streaming.main()
    scale.main()
    capture.main()
    cubes.main()
    flow.main()
    measures.main()
    print(f"\nKept in {RESULTS.relative_to(ROOT)}/")
