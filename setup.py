"""Build hook: the shipped topologies, workloads and schemas go into the wheel as `sim/data/...`.

They stand at the root of the project, where people look for them; everything else is in
pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithInputs(build_py):
    """`build_py` that also copies their folders."""

    def run(self) -> None:
        """Copy them unless the install is editable, which finds them where they are."""
        super().run()
        if self.editable_mode:
            return
        for kind in ("topologies", "workloads", "schemas"):
            target = Path(self.build_lib) / "sim" / "data" / kind
            self.mkpath(str(target))
            for source in sorted((Path(__file__).parent / kind).glob("*.*")):
                self.copy_file(str(source), str(target / source.name))


setup(cmdclass={"build_py": BuildWithInputs})
