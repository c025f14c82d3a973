"""`cgt export` from a checkout, where its dependencies are installed and cgt itself need not be.

python tools/export_generator.py MODEL OUT --format FORMAT [OPTION ...]; --help lists the options
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import cgt  # noqa: E402
from cgt.cli import main  # noqa: E402

cgt.__path__.append(str(CHECKOUT))  # for the lists of classes: an installed cgt has configs/ as cgt.configs

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
