"""Packages of the wheel; everything else is in pyproject.toml, which cannot say that a package lies in another place.

The laboratory goes inside attnreg, so that `experiments` and `configs` stay free names in the environments of others.
"""

from setuptools import find_packages, setup

LAB = "attnreg._lab"
setup(
    packages=[
        *find_packages(include=["attnreg*"]),
        *(f"{LAB}.{name}" for name in find_packages(include=["experiments*", "configs*"])),
    ],
    package_dir={f"{LAB}.experiments": "experiments", f"{LAB}.configs": "configs"},
)
