"""A network written plainly, to compare with: each flow alone, all shares anew at each change.

It shares nothing with `jax_ssp.delays.links`: no groups, no heaps, no order of changes.
"""

import math


def shares(bandwidths, shared):
    """Max-min fair rates, by filling all equally until one has enough or nothing is left."""
    rates, open_, left = [0.0] * len(bandwidths), set(range(len(bandwidths))), shared
    while open_:
        room = min(bandwidths[i] - rates[i] for i in open_)
        step = min(room, left / len(open_))
        if math.isinf(step):
            return [math.inf if i in open_ else rate for i, rate in enumerate(rates)]
        for i in open_:
            rates[i] += step
        left -= step * len(open_)
        full = {i for i in open_ if rates[i] >= bandwidths[i] * (1 - 1e-12)}
        if (left <= 1e-12 * shared < math.inf) or not full:
            return rates
        open_ -= full
    return rates


def arrivals(flows, shared):
    """When each flow has arrived; None if it is broken off before.

    Args:
        flows: (begins, latency, bandwidth, size, ends) each: when it begins to travel, and when it
            is broken off (infinity: never).
        shared: bandwidth of the server.
    """
    found = [None] * len(flows)
    left = [size for _, _, _, size, _ in flows]
    enters = [begins + latency for begins, latency, _, _, _ in flows]
    waiting, sending, now = set(range(len(flows))), set(), 0.0
    while waiting or sending:
        for i in sorted(waiting | sending):
            if flows[i][4] <= now:
                waiting.discard(i)
                sending.discard(i)
        sending |= {i for i in waiting if enters[i] <= now}
        waiting -= sending
        here = sorted(sending)
        rates = dict(zip(here, shares([flows[i][2] for i in here], shared), strict=True))
        done = [i for i in here if left[i] <= 1e-9 * flows[i][3] or math.isinf(rates[i])]
        for i in done:
            found[i] = now
            sending.discard(i)
        if done:
            continue
        times = [now + left[i] / rates[i] for i in here]
        times += [enters[i] for i in waiting]
        times += [flows[i][4] for i in waiting | sending if flows[i][4] > now]
        then = min(times, default=math.inf)
        if math.isinf(then):
            break
        for i in here:
            left[i] -= rates[i] * (then - now)
        now = then
    return found
