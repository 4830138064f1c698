"""`python tools/python_version.py`: refuse a Python for which TensorFlow has no wheels, as setup.cfg says.

The versions are those of `python_requires`. Every Python 3 can run this file.
"""

import configparser
import pathlib
import re
import sys

config = configparser.ConfigParser()
config.read(pathlib.Path(__file__).parent.parent / "setup.cfg")
first, end = (tuple(map(int, pair)) for pair in re.findall(r"(\d+)\.(\d+)", config["options"]["python_requires"]))
found = tuple(sys.version_info[:2])
if not first <= found < end:
    valid = [f"3.{minor}" for minor in range(first[1], end[1])]
    sys.exit(
        f"error: TensorFlow has no wheels for Python {found[0]}.{found[1]}; valid: {', '.join(valid)}; "
        f"give one of them: make PYTHON=python{valid[0]}"
    )
