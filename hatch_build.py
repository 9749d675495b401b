"""Build the native kernels when convswap is installed; without a compiler the package is pure Python and works.

Nothing of convswap is imported here (that would import torch, which an isolated build does not have): the builder in
`ops/native/build.py` needs the standard library only and is loaded by its path.

`CONVSWAP_NATIVE=0` builds nothing, `CONVSWAP_NATIVE=1` makes a failing build fail the installation.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOUSE = Path("src", "convswap", "ops", "native")


class NativeBuildHook(BuildHookInterface[Any]):
    """Put the library into the wheel, or into the working tree for an editable installation."""

    _temporary: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together (`version` is "editable" for an editable installation)."""
        if self.target_name != "wheel":
            return
        builder = _load_builder(Path(self.root) / HOUSE / "build.py")
        if version == "editable":
            self._attempt(builder, builder.FOLDER)
            return
        self._temporary = Path(tempfile.mkdtemp(prefix="convswap-build-"))
        library, reason = self._attempt(builder, self._temporary)
        if library is None:
            inside, file = builder.REASON, self._temporary / builder.REASON
            file.write_text(reason + "\n", encoding="utf-8")
        else:
            inside, file = library.name, library
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"
        build_data["force_include"][str(file)] = f"convswap/ops/native/{builder.FOLDER.name}/{inside}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is written."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _attempt(self, builder: ModuleType, folder: Path) -> tuple[Path | None, str]:
        """The library, or None and the reason."""
        reason = builder.why_switched_off()
        if reason is None:
            try:
                return builder.build(folder).path, ""
            except builder.BuildError as error:
                if os.environ.get("CONVSWAP_NATIVE", "").strip() == "1":
                    raise
                reason = str(error)
        self.app.display_warning(f"convswap is installed without native kernels: {reason}")
        return None, reason


def _load_builder(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("convswap_native_build", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    if sys.platform == "darwin":  # the compiler builds for this machine, whatever Python was built for
        return f"macosx_{platform.mac_ver()[0].split('.')[0]}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
