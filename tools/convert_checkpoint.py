"""`cgt convert` from a checkout, where its dependencies are installed and cgt itself need not be.

python tools/convert_checkpoint.py FORMAT INPUT OUT [OPTION ...]; --help lists the formats and options
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from cgt.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
