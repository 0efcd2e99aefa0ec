"""The checks of the installation: Python, packages, configuration, model, compiled kernels, and how fast they are."""

from __future__ import annotations

import logging
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import msgspec

from serstream.children import environment
from serstream.errors import SerstreamError
from serstream.findings import Case, Finding, failure, ok, said, warning
from serstream.resources import packaged

PYTHONS = ((3, 11), (3, 15))
"""The first that serstream is for, and the first that it is not."""
PROCESSORS = ("x86_64", "aarch64")
PACKAGES = {
    "numpy": ("numpy", ">=1.26,<2.6"),
    "numba": ("numba", ">=0.63.1"),
    "ai-edge-litert": ("ai_edge_litert.interpreter", ">=2.1.6,<3"),
    "sounddevice": ("", ">=0.5.3"),
    "soxr": ("soxr", ">=1"),
    "soundfile": ("soundfile", ">=0.13"),
    "pyzmq": ("zmq", ">=27"),
    "pyyaml": ("yaml", ">=6"),
    "msgspec": ("msgspec", ">=0.20"),
    "rich": ("rich", ">=13.9"),
}
"""What serstream needs: the module to import (sounddevice's starts PortAudio, another check's), and the versions."""
TFLITE = {"tflite-runtime": ("tflite_runtime.interpreter", ">=2.14,<2.15")}
SHIPPED = ("serstream", "open")
_IMPORT_LIMIT_S = 60.0


def python(case: Case) -> list[Finding]:
    """Whether Python and processor are such that all packages have wheels."""
    first, last = PYTHONS
    here = f"{platform.python_version()} on {platform.machine()}, {platform.libc_ver()[0] or 'another C library'}"
    if not first <= sys.version_info[:2] < last:
        allowed = f"{first[0]}.{first[1]} to {last[0]}.{last[1] - 1}"
        return [
            failure(
                "python", f"{here}; serstream is for {allowed}", f"install one of them: python{last[0]}.{last[1] - 1}"
            )
        ]
    if platform.machine() not in PROCESSORS or platform.libc_ver()[0] != "glibc":
        remedy = f"take a Linux of 64 bit with glibc, on {' or '.join(PROCESSORS)}"
        return [warning("python", f"{here}: not every package has a wheel for that", remedy)]
    return [ok("python", f"{here}: {sys.executable}")]


def packages(case: Case) -> list[Finding]:
    """Whether each package that is needed is of a version that fits, and another process can import it."""
    wanted = dict(PACKAGES)
    if case.config.runtime == "tflite":
        del wanted["ai-edge-litert"]
        wanted |= TFLITE
    all_fit = _import_fails(*(module for module, _ in wanted.values() if module)) is None
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda name: _package(name, *wanted[name], importable=all_fit), wanted))
    wrong = [finding for finding in found if isinstance(finding, Finding)]
    return wrong or [ok("packages", ", ".join(map(str, found)))]


def _package(name: str, module: str, versions: str, *, importable: bool) -> Finding | str:
    """Return a package and its version, or what is wrong with it."""
    remedy = f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(name + versions)}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return failure("packages", f"{name} is not installed", remedy)
    if not fits(version, versions):
        return failure("packages", f"{name} {version} is installed, but serstream needs {versions}", remedy)
    if module and not importable and (why := _import_fails(module)):
        remedy = remedy.replace(" install ", " install --force-reinstall ")
        return failure("packages", f"{name} {version} cannot be imported: {why}", remedy)
    return f"{name} {version}"


def _import_fails(*modules: str) -> str | None:
    """Return why a fresh process cannot import modules, None if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import {', '.join(modules)}"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it has not ended within {_IMPORT_LIMIT_S:g} s"
    if done.returncode < 0:
        return f"it is ended by signal {-done.returncode}, as where a wheel is for another processor"
    return (done.stderr.strip().splitlines() or ["without a word"])[-1] if done.returncode else None


def fits(version: str, versions: str) -> bool:
    """Return whether a version is in a range such as ``>=1.26,<2.6``."""
    return all(
        _numbers(version) >= _numbers(part) if part.startswith(">=") else _numbers(version) < _numbers(part)
        for part in versions.split(",")
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])))


def configuration(case: Case) -> list[Finding]:
    """Whether the configuration can be used, and which it is."""
    if case.error is not None:
        return [said("configuration", case.error, "the other checks take the defaults, for ")]
    return [ok("configuration", f"{case.path} is used; its sources: {', '.join(case.config.sources)}")]


def model(case: Case) -> list[Finding]:
    """Whether the models are whole, and the configured one runs and fits the configuration."""
    from serstream.daemon import find_model
    from serstream.manifest import load_model
    from serstream.network import Network
    from serstream.pipeline import thresholds
    from serstream.profiles import find as find_profile

    config = case.config
    findings = []
    try:
        chosen = find_model(config.model)
        Network(chosen, config.runtime)
        thresholds(chosen.manifest, config.decision)
        sentence = (
            f"{config.model}: sha256 {chosen.manifest.sha256[:12]}... as its manifest says, run by {config.runtime}"
        )
        findings.append(ok("model", sentence))
        for source in config.sources.values():
            if source.profile is not None:
                find_profile(source.profile, chosen.manifest.front_end)
    except SerstreamError as error:
        findings.append(said("model", error))
    for name in SHIPPED:
        if name != config.model:
            try:
                load_model(packaged(f"models/{name}"))
            except (SerstreamError, FileNotFoundError) as error:
                finding = said("model", error, f"{name}, which is not in use: ")
                findings.append(msgspec.structs.replace(finding, status="warning"))
    return findings


def kernels(case: Case) -> list[Finding]:
    """Whether compiled kernels can be kept, and where; it compiles them and keeps them there, as any start does."""
    begun_s = time.perf_counter()
    from numba.core.dispatcher import Dispatcher

    from serstream import kernels as compiled

    lasted_s = time.perf_counter() - begun_s
    kept: list[str | None] = [d.stats.cache_path for d in vars(compiled).values() if isinstance(d, Dispatcher)]
    where = next(filter(None, kept), None)
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    remedy = "export NUMBA_CACHE_DIR=~/.cache/serstream"
    if where is None:
        sentence = (
            f"no folder for compiled kernels can be written: every start compiles them, {lasted_s:.1f} s just now"
        )
        return [warning("kernels", sentence, remedy)]
    if wanted and not Path(where).resolve().is_relative_to(Path(wanted).resolve()):
        sentence = f"NUMBA_CACHE_DIR names {wanted}, which cannot be written: compiled kernels are in {where}"
        return [warning("kernels", sentence, remedy)]
    return [ok("kernels", f"ready in {lasted_s:.1f} s, kept in {where}")]


def speed(case: Case) -> list[Finding]:
    """Whether the machine carries the sources of the configuration, and what one costs."""
    from serstream.admission import LOAD, measure, plan
    from serstream.daemon import find_model
    from serstream.hearing import Orders, Wishes

    chosen, config = find_model(case.config.model), case.config
    orders = Orders(
        session="",
        started_s=time.time(),
        sources=config.sources,
        speech=config.speech,
        wishes=Wishes(decision=config.decision, log_level=logging.ERROR),
        manifest=chosen.manifest,
        network=chosen.content,
        runtime=config.runtime,
        profiles={},
    )
    share, cores = measure(orders), len(os.sched_getaffinity(0))
    try:
        plan(config.sources, share, cores=cores, wanted=config.workers)
    except SerstreamError as error:
        return [said("speed", error)]
    return [ok("speed", f"a source takes {share:.1%} of a core: {cores} cores carry {int(LOAD / share) * cores}")]
