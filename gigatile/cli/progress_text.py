"""Figures as words, the same on all displays."""

from __future__ import annotations

from gigatile.cli.counts import STAGES
from gigatile.cli.snapshot import ActiveImage, ImagesSnapshot, Snapshot
from gigatile.units import format_bytes, format_seconds, one_line

_ACTIVE_IN_LINE = 2
"""Images that a line names; the rest is counted."""


def plain_line(state: Snapshot, memory_bytes: int) -> str:
    """All figures in one line."""
    if state.images is None:
        parts = [f"{state.phase or 'starting'} {state.blocks_done}/{state.blocks_total} blocks"]
    else:
        parts = [f"images {state.images.ended}/{state.images.total}{earlier(state.images.resumed)}"]
    parts.append(f"{100 * state.fraction:.0f} %")
    if state.images is not None:
        parts.append(f"{state.blocks_done}/{blocks_total(state)} blocks{earlier(state.resumed)}")
    parts.append(speed(state))
    parts.append(time_left(state))
    parts.append(f"memory {memory(state, memory_bytes)}")
    parts += [state.verdict] if state.verdict else []
    parts += [f"failed: {failures(state)}"] if failures(state) else []
    if state.images is not None and state.images.active:
        parts.append(f"working on {active_names(state.images)}")
    return ", ".join(parts)


def speed(state: Snapshot) -> str:
    """``3.42 Mpx/s``."""
    return f"{state.pixels_per_second / 1e6:.2f} Mpx/s"


def eta(state: Snapshot) -> str:
    """Time until the end of the phase, or of the cohort."""
    return "unknown yet" if state.eta_seconds is None else format_seconds(state.eta_seconds)


def time_left(state: Snapshot) -> str:
    """``ETA 2m 05s``, and at the end ``in 9m 12s``."""
    return f"in {format_seconds(state.elapsed_seconds)}" if state.ended else f"ETA {eta(state)}"


def memory(state: Snapshot, memory_bytes: int) -> str:
    """``812 MiB of 2.0 GiB``."""
    budget = f" of {format_bytes(state.budget_bytes)}" if state.budget_bytes else ""
    return f"{format_bytes(memory_bytes)}{budget}"


def stages(state: Snapshot) -> str:
    """``read 9 %  infer 83 %  blend 3 %  write 5 %``."""
    shares = {stage: share for stage in STAGES if (share := state.shares.get(stage, 0.0)) > 0}
    return "  ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares.items())


def earlier(count: int) -> str:
    """`` (16 by an earlier run)``, or nothing."""
    return f" ({count} by an earlier run)" if count else ""


def blocks_total(state: Snapshot) -> str:
    """``640``; with a plus while blocks of images that are not planned are missing in it."""
    return f"{state.blocks_total}{'+' if state.images is not None and state.images.unplanned else ''}"


def pixels(state: Snapshot) -> str:
    """``115.3 of 268.4 Mpx``; ``of about`` while some images are not planned."""
    done = f"{state.pixels_done / 1e6:,.1f}"
    if not state.pixels_total:
        return f"{done} Mpx"
    about = "about " if state.images is not None and state.images.unplanned else ""
    return f"{done} of {about}{state.pixels_total / 1e6:,.1f} Mpx"


def failures(state: Snapshot) -> str:
    """``13 blocks``; of a cohort ``2 images (1 refused) and 13 blocks``; nothing if nothing failed."""
    parts = [counted(state.failed, "block")] if state.failed else []
    if state.images is not None and (bad := state.images.failed + state.images.refused):
        refused = f" ({state.images.refused} refused)" if state.images.refused else ""
        parts.insert(0, f"{counted(bad, 'image')}{refused}")
    return " and ".join(parts)


def active_names(images: ImagesSnapshot) -> str:
    """``slide_a, slide_b and 12 more``."""
    named = ", ".join(one_line(image.name) for image in images.active[:_ACTIVE_IN_LINE])
    more = len(images.active) - _ACTIVE_IN_LINE
    return f"{named} and {more} more" if more > 0 else named


def image_progress(image: ActiveImage) -> str:
    """``28 of 64 blocks``."""
    return image.later or f"{image.blocks_done} of {counted(image.blocks_total, 'block')}"


def counted(count: int, noun: str) -> str:
    """``1 block``, ``2 blocks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def phase_ended(state: Snapshot) -> str:
    """What to leave behind of the prediction when the next phase starts."""
    took = f"{state.pixels_total / 1e6:,.1f} Mpx in {format_seconds(state.phase_seconds)}"
    verdict = f", {state.verdict}" if state.verdict else ""
    return f"{state.phase}: {state.blocks_done} of {state.blocks_total} blocks, {took}{verdict}"


def cohort_ended(state: Snapshot, images: ImagesSnapshot) -> str:
    """What became of all images, in one line."""
    parts = [f"{images.complete} of {counted(images.total, 'image')} complete{earlier(images.resumed)}"]
    parts += [f"failed: {failures(state)}"] if failures(state) else []
    parts.append(_this_run(state, images))
    parts += [state.verdict] if state.verdict else []
    hint = "; 'gigatile status DIR' tells what failed" if images.failed + images.refused else ""
    return ", ".join(parts) + hint


def _this_run(state: Snapshot, images: ImagesSnapshot) -> str:
    """``1,153.3 Mpx in 5m 00s (3.84 Mpx/s)``: without what earlier runs did, so that the speed is that of this one."""
    took = f"in {format_seconds(state.elapsed_seconds)}"
    if state.blocks_done == state.resumed:
        return took
    mpx = (state.pixels_done - images.pixels_before) / 1e6
    return f"{mpx:,.1f} Mpx {took} ({mpx / max(state.elapsed_seconds, 1e-9):.2f} Mpx/s)"
