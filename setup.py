"""The package, described by settings.ini: `X_requirements` there becomes the extra `X` here.

The notebooks of a run, its profiles, its launch files and the released adapter travel inside the wheel, so that `ftrl reproduce` and `--model qwen2.5-coder-0.5b+ftrl` work outside a checkout.
"""
import shutil
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

config = ConfigParser(delimiters=["="], interpolation=None)
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
suffix = "_requirements"
runs = Path("nbs", "runs")


class BuildWithRuns(build_py):
    "What setuptools builds, and the run notebooks and profiles"

    def run(self):
        super().run()
        if self.editable_mode:  # a checkout reads them where they are
            return
        target = Path(self.build_lib, "ftrl", "runs", "notebooks")
        for source in sorted([*runs.glob("[0-9]_*.ipynb"), *runs.glob("profiles/*.yaml")]):
            copy = target / source.relative_to(runs)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["ftrl", "ftrl.*"]),
    package_data={"ftrl": ["py.typed", "adapters/*/*"], "ftrl.training": ["launch/*"],
                  "ftrl.environments.planning": ["idioms.txt"]},
    cmdclass={"build_py": BuildWithRuns},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={k[: -len(suffix)]: v.split() for k, v in cfg.items() if k.endswith(suffix)},
    entry_points={"console_scripts": cfg["console_scripts"].splitlines(), "nbdev": ["ftrl=ftrl._modidx:d"]},
    zip_safe=False,
)
