"""Build the wheel, install it into an empty folder, and run it from another one by names."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Fail if the wheel lacks anything that a run needs."""
    with tempfile.TemporaryDirectory() as scratch:
        wheels, site, elsewhere = (Path(scratch, name) for name in ("wheels", "site", "elsewhere"))
        elsewhere.mkdir()
        pip = [sys.executable, "-m", "pip", "--quiet"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], check=True)
        (wheel,) = wheels.glob("scaling_sim-*.whl")
        subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
        environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

        def python(code: str, *arguments: str) -> str:
            return subprocess.run(
                [sys.executable, "-c", code, *arguments], cwd=elsewhere, env=environment,
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip

        home = python("import sim; print(sim.__file__)").strip()
        if not home.startswith(str(site)):
            print(f"not the wheel's own files: {home}")
            return 1
        command = "from sim.cli import main; main()"
        print(python(command, "run", "dgx-h100", "llama3-8b-sft", "--quiet"))
        python(command, "run", "dgx-h100", "llama3-8b-lora", "--quiet", "--report", "page.html")
        python("from sim.serve.app import _own; _own('live.html')")
        python(command, "collective", "aws-p5", "--sizes", "1M,1G")
        python(command, "memory", "dgx-a100", "llama3-70b-lora")
        for kind in ("topologies", "workloads"):  # editors complete by what their first line names
            for file in (site / "sim" / "data" / kind).glob("*.yaml"):
                schema = file.read_text().splitlines()[0].partition("$schema=")[2]
                if not schema or not (file.parent / schema).is_file():
                    print(f"{file}: no schema at {schema or 'the first line'}")
                    return 1
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, runs by names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
