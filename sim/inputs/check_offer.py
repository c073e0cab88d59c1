"""Checks of what a machine costs."""

from __future__ import annotations

from sim.inputs.fields import either
from sim.inputs.finding import Findings, fault, warning
from sim.inputs.price import residencies
from sim.inputs.topology import Offer
from sim.quantities import usd


def findings(offer: Offer) -> Findings:
    """Every finding about it: owned and paid by nothing, terms that nothing is paid by."""
    rented, own, capacity = offer.price_per_gpu_hour is not None, offer.own, offer.capacity
    if capacity == "owned" and own is None:
        message = "owned, and nothing says what it cost"
        hint = "write offer.own: {price_per_gpu: 30000 USD}, with node, network and storage in it"
        yield fault("no-own-price", "topology", "offer.capacity", message, hint)
    if capacity == "spot" and rented and offer.spot_price_per_gpu_hour is None:
        message = "spot capacity, which can be taken away, at the price on demand"
        hint = "add offer.spot_price_per_gpu_hour"
        yield warning("no-spot-price", "topology", "offer.capacity", message, hint)
    demand, spot = offer.price_per_gpu_hour, offer.spot_price_per_gpu_hour
    if demand is not None and spot is not None and spot > demand:
        message = f"{usd(spot)} an hour, and {usd(demand)} on demand, which nobody takes away"
        hint = "exchange the two, or leave offer.spot_price_per_gpu_hour out"
        yield warning("dear-spot", "topology", "offer.spot_price_per_gpu_hour", message, hint)
    if own is not None and rented and capacity != "owned":
        message = "a machine of one's own that is rented: price_per_gpu_hour is what is paid"
        hint = "add offer.capacity: owned, or leave price_per_gpu_hour out"
        yield warning("own-and-rented", "topology", "offer.own", message, hint)
    known = residencies(offer.provider, offer.region)
    if offer.residency and known and offer.residency.upper() not in known:
        message = f"{offer.residency}, and the region {offer.region} is in {either(known)}"
        hint = f"write {known[0]}, or another region"
        yield warning("residency", "topology", "offer.residency", message, hint)
