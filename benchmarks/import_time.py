"""How long `import ila_hf` takes on top of `import transformers`, in fresh processes."""

import argparse
import statistics
import subprocess
import sys


CODE = """
import time
import transformers
start = time.perf_counter()
import ila_hf
print(time.perf_counter() - start)
"""


def main() -> None:
    """Print median and maximum over the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    seconds = [float(subprocess.check_output([sys.executable, "-c", CODE], text=True)) for _ in range(runs)]
    print(f"import ila_hf after transformers: median {statistics.median(seconds) * 1000:.0f} ms, ", end="")
    print(f"maximum {max(seconds) * 1000:.0f} ms over {runs} processes")


if __name__ == "__main__":
    main()
