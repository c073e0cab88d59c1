"""What one lane's time goes on while others run beside it, as one loop over columns.

Run as it is on lists, or as machine code on arrays (`sim.engine.looped`): hence one function that
calls nothing. `sim.step.breakdown` says what the sums mean and puts names to them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.engine.looped import Looped
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

HOLDERS = 3  # kinds of ops that hold units
# places of a window's sums; then those by kind, what each lost, those by label, three by sort
BESIDE, BUSY, HIDDEN, COVERED, IDLE, SHARED, BLAMED = range(7)
FIXED = BLAMED + HOLDERS
EVEN = 1e-12  # of a difference of times: what is rounding [s]
FLAT = 0.999  # of its rate: what an op keeps that does not miss the units it lacks


class Watched(NamedTuple):
    """A timeline, and the ops of it to look at."""

    start: F8  # (n,) of all ops [s]
    end: F8
    alone: F8  # (n,) duration with nothing beside it [s]
    curve: I4  # (n,) row of `curves`, -1 none
    curves: F8  # (n_curves x width,) rate by units left
    width: int
    units: int  # countable ones
    ops: I4  # (m,) of the lane, in order
    n_ops: int  # m
    kind: I4  # (m,)
    kinds: int
    begins: I4  # (k,) ops with whose start something is in flight beside the lane
    n_flights: int  # k
    ends: I4  # (k,) with whose end it is over
    label: I4  # (k,)
    labels: int
    sort: I4  # (k,)
    sorts: int
    size: F8  # (k,)
    first: I4  # (k + c,) the same and what runs beside it else
    n_beside: int  # k + c
    last: I4
    holds: I4  # (h,) ops that hold units
    n_holds: int  # h
    until: I4  # (h,) whose end gives them back
    held: I4  # (n,) units that an op holds
    holder: I4  # (h,) whether they are of the first, second or third kind
    windows: int | I8
    begin: F8  # (w,) windows to look through [s]
    finish: F8


class Sums(NamedTuple):
    """What is found, and room to find it in."""

    total: F8  # (windows x sums,)
    mean: F8  # (HOLDERS,) units held
    low: F8  # (k + c + h,)
    high: F8
    order: I4  # (k,)
    gap_begin: F8  # (m + 1,)
    gap_end: F8
    inside: F8  # (m + 1,)
    slow: I4  # (m,)
    lost: F8  # (m,)
    share: F8  # (m x HOLDERS,)


def account(w: Watched, s: Sums) -> tuple[int, int]:
    """Sums over each window.

    Parameters
    ----------
    w : Watched
        With arrays or with lists in its columns.
    s : Sums
        `total` of zeros.

    Returns
    -------
    windows, gaps : int, int
        Windows looked through, gaps of the lane in all of them.

    Notes
    -----
    Of a window: time beside (any of what is in flight), busy, idle while something is in flight
    (hidden), or that or a copy (covered), idle; of what was lost (busy beyond alone, of ops within
    it) that of ops which shared something, and that of ops which lacked units, by who held them:
    units held x seconds. Then busy, and lost, by kind; hidden by the label of what a gap waits for:
    the last to end within it; and of each sort those that begin in the window, their size and how
    long they take.
    """
    start, end, total = w.start, w.end, s.total
    ops, begins, ends = w.ops, w.begins, w.ends
    low, high, order = s.low, s.high, s.order
    gap_begin, gap_end, inside = s.gap_begin, s.gap_end, s.inside
    slow, lost, share = s.slow, s.lost, s.share
    n_ops, n_flights, n_beside, n_holds = w.n_ops, w.n_flights, w.n_beside, w.n_holds
    n_copies = n_beside - n_flights
    of_kind = FIXED
    of_lost = of_kind + w.kinds
    of_label = of_lost + w.kinds
    of_sort = of_label + w.labels
    n_sums = of_sort + 3 * w.sorts
    all_gaps = 0

    # what is in flight, by its end
    for i in range(n_flights):
        t = end[ends[i]]
        j = i
        while j > 0 and end[ends[order[j - 1]]] > t:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i

    # units held, in the mean of each kind of holder
    most = 0
    for c in range(HOLDERS):
        count, units = 0, 0.0
        for i in range(n_holds):
            if w.holder[i] == c:
                count += 1
                units += w.held[w.holds[i]]
        s.mean[c] = 0.0
        if count > 0:
            s.mean[c] = units / count
            most = max(most, round(s.mean[c]))
    least = max(0, w.units - most)

    windows = int(w.windows)
    for v in range(windows):
        begin, finish = w.begin[v], w.finish[v]
        row = v * n_sums

        # 1. the lane: what it is busy with, what is lost, and where it is idle
        n_gaps, n_slow = 0, 0
        last = begin
        first, n = 0, n_ops  # the first op that ends in the window or behind it
        while first < n:
            i = (first + n) // 2
            if end[ops[i]] > begin:
                n = i
            else:
                first = i + 1
        for i in range(first, n_ops):
            o = ops[i]
            if start[o] >= finish:
                break
            a = min(max(start[o], begin), finish)
            b = min(max(end[o], begin), finish)
            length = b - a
            total[row + of_kind + w.kind[i]] += length
            total[row + BUSY] += length
            if end[o] <= finish and start[o] >= begin:
                more = length - w.alone[o]
                if more > EVEN:
                    total[row + of_lost + w.kind[i]] += more
                    slow[n_slow] = o
                    lost[n_slow] = more
                    n_slow += 1
            if length > 0.0:
                if a > last:
                    gap_begin[n_gaps] = last
                    gap_end[n_gaps] = a
                    n_gaps += 1
                last = b
        if finish > last:
            gap_begin[n_gaps] = last
            gap_end[n_gaps] = finish
            n_gaps += 1
        for i in range(n_gaps):
            total[row + IDLE] += gap_end[i] - gap_begin[i]
        all_gaps += n_gaps

        # 2. unions of intervals: what is in flight, that with copies, and each kind of holder;
        # and how much of the lane's gaps, or of its slow ops, is inside
        for union in range(2 + HOLDERS):
            many = n_flights if union == 0 else n_beside
            if union > 1:
                many = n_holds if n_slow > 0 else 0
            elif union == 1 and n_copies == 0:
                many = 0
            kept = 0
            for i in range(many):
                if union > 1:
                    if w.holder[i] != union - 2:
                        continue
                    a, b = start[w.holds[i]], end[w.until[i]]
                    if b <= start[slow[0]] or a >= end[slow[n_slow - 1]]:
                        continue
                else:
                    if union == 0:
                        a, b = start[begins[i]], end[ends[i]]
                    else:
                        a, b = start[w.first[i]], end[w.last[i]]
                    a = min(max(a, begin), finish)
                    b = min(max(b, begin), finish)
                if not b > a:
                    continue
                j = kept
                while j > 0 and low[j - 1] > a:
                    low[j] = low[j - 1]
                    high[j] = high[j - 1]
                    j -= 1
                low[j] = a
                high[j] = b
                kept += 1
            merged = 0
            for j in range(kept):
                if merged > 0 and low[j] <= high[merged - 1]:
                    if high[j] > high[merged - 1]:
                        high[merged - 1] = high[j]
                else:
                    low[merged] = low[j]
                    high[merged] = high[j]
                    merged += 1
            if union == 0:
                for j in range(merged):
                    total[row + BESIDE] += high[j] - low[j]
            first = 0
            for i in range(n_gaps if union < 2 else n_slow):
                if union < 2:
                    a, b = gap_begin[i], gap_end[i]
                else:
                    a, b = start[slow[i]], end[slow[i]]
                while first < merged and high[first] <= a:
                    first += 1
                covered = 0.0
                j = first
                while j < merged and low[j] < b:
                    covered += min(b, high[j]) - max(a, low[j])
                    j += 1
                if union == 0:
                    inside[i] = covered
                    total[row + HIDDEN] += covered
                elif union == 1:
                    total[row + COVERED] += covered
                else:
                    share[i * HOLDERS + union - 2] = s.mean[union - 2] * covered
        if n_copies == 0:
            total[row + COVERED] = total[row + HIDDEN]

        # 3. who is to blame for what slow ops lost
        for i in range(n_slow):
            taken = 0.0
            for c in range(HOLDERS):
                taken += share[i * HOLDERS + c]
            c = w.curve[slow[i]]
            full = c * w.width
            if c >= 0 and taken > 0.0 and w.curves[full + least] < FLAT * w.curves[full + w.units]:
                for c in range(HOLDERS):
                    total[row + BLAMED + c] += lost[i] * share[i * HOLDERS + c] / taken
            else:
                total[row + SHARED] += lost[i]

        # 4. what gaps wait for
        at = -1
        for i in range(n_gaps):
            if not inside[i] > 0.0:
                continue
            while at + 1 < n_flights and end[ends[order[at + 1]]] <= gap_end[i]:
                at += 1
            which = order[0]
            if at >= 0 and end[ends[order[at]]] > gap_begin[i]:
                which = order[at]
            else:
                for j in range(n_flights - 1, -1, -1):
                    if start[begins[order[j]]] < gap_end[i]:
                        which = order[j]
                        break
            total[row + of_label + w.label[which]] += inside[i]

        # 5. what begins in the window
        for i in range(n_flights):
            a = start[begins[i]]
            if a >= begin and a < finish:
                c = of_sort + 3 * w.sort[i]
                total[row + c] += 1.0
                total[row + c + 1] += w.size[i]
                total[row + c + 2] += end[ends[i]] - a
    return windows, all_gaps


def accounts(w: Watched, calls: int) -> F8:
    """`account` of several timelines, (calls, windows, sums).

    Parameters
    ----------
    w : Watched
        Columns with a leading axis have a row a timeline; so have numbers that are arrays.
    calls : int
        How many timelines.
    """
    windows, m, k = w.begin.shape[-1], w.n_ops, w.n_flights
    sums = FIXED + 2 * w.kinds + w.labels + 3 * w.sorts
    room = w.n_beside + w.n_holds
    s = Sums(
        np.zeros((calls, windows * sums)), np.zeros(HOLDERS), np.empty(room), np.empty(room),
        np.zeros(k, dtype=np.int32), np.empty(m + 1), np.empty(m + 1), np.empty(m + 1),
        np.empty(m, dtype=np.int32), np.empty(m), np.empty(m * HOLDERS),
    )  # fmt: skip
    _account(w, s, calls)
    return s.total.reshape(calls, windows, sums)


_account = Looped(account, Watched, Sums)
