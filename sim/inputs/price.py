"""A rentable node type and its price: terms, age, confidence, place, currency."""

from __future__ import annotations

import csv
import datetime
import os
import re
from functools import cache, lru_cache

from sim.data import DATA
from sim.errors import InputError
from sim.records import NamedTuple, dataclass

PRICES = DATA / "prices"
STALE_DAYS = 90
#: terms of an offer -> the column of its price; the order in which they are told
TERMS = {
    "on-demand": "usd_per_gpu_hour", "spot": "spot_usd_per_gpu_hour",
    "reserved 1 y": "reserved_1y_usd_per_gpu_hour", "reserved 3 y": "reserved_3y_usd_per_gpu_hour",
}  # fmt: skip
UNCHECKED = "unchecked"
_CURRENCY = "--currency"
CONFIDENCES = ("listed", UNCHECKED, "")  # "": a file of one's own
_EPOCH = "SOURCE_DATE_EPOCH"  # https://reproducible-builds.org/docs/source-date-epoch


def today() -> datetime.date:
    """The day by which prices are as old as they are.

    `SOURCE_DATE_EPOCH` in the environment, in seconds since 1970, stands for the clock: the same
    inputs then give the same output on any day.

    Raises
    ------
    InputError
        If it is no such number.
    """
    stated = os.environ.get(_EPOCH)
    if not stated:
        return datetime.date.today()
    try:
        return datetime.datetime.fromtimestamp(int(stated), datetime.UTC).date()
    except (ValueError, OverflowError, OSError):
        message = f"is {stated[:40]!r} in the environment, not whole seconds since 1970"
        raise InputError.single(_EPOCH, message) from None


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One rentable node type. Prices in USD, whatever `currency` its file states them in."""

    provider: str
    instance: str
    gpu: str
    gpus_per_node: int
    usd_per_gpu_hour: float
    spot_usd_per_gpu_hour: float | None
    region: str
    residency: str
    as_of: str  # year, year-month or date
    source: str
    country: str = ""  # ISO 3166 alpha-3
    egress_usd_per_gb: float | None = None  # None: the provider's, `services`
    storage_usd_per_gb_month: float | None = None
    reserved_1y_usd_per_gpu_hour: float | None = None  # paid for a year, used or not
    reserved_3y_usd_per_gpu_hour: float | None = None
    confidence: str = ""  # of `CONFIDENCES`
    currency: str = "USD"

    def price(self, terms: str) -> float | None:
        """Price on some of `TERMS`. [USD/h]"""
        found: float | None = getattr(self, TERMS[terms])
        return found

    def doubt(self, today: datetime.date) -> str:
        """Why the price may not stand for its machine; "" where it is checked, dated, not old."""
        age = self.age_days(today)
        if self.confidence == UNCHECKED:
            return f"{self.provider}'s price is not checked"
        if age is None:
            return f"{self.provider}'s price has no date"
        if age[0] > STALE_DAYS:
            return f"{self.provider}'s price is {age[0]} days old or more"
        return ""

    def trusted(self, today: datetime.date) -> bool:
        """Whether the price may stand for its machine."""
        return not self.doubt(today)

    @property
    def place(self) -> str:
        """Provider and region."""
        return place_of(self.provider, self.region)

    @property
    def name(self) -> str:
        """Provider, instance and region: what tells offers apart."""
        return place_of(f"{self.provider} {self.instance}", self.region)

    def age_days(self, today: datetime.date) -> tuple[int, int] | None:
        """Least and greatest age of the price; None if it has no date. [d]"""
        match = re.fullmatch(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", self.as_of)
        if match is None:
            return None
        year, month, day = (int(g) if g else None for g in match.groups())
        assert year is not None
        try:
            first = datetime.date(year, month or 1, day or 1)
            if day:
                last = first
            elif month:
                last = (first + datetime.timedelta(days=31)).replace(day=1)
                last -= datetime.timedelta(days=1)
            else:
                last = datetime.date(year, 12, 31)
        except ValueError:
            return None
        return max(0, (today - last).days), max(0, (today - first).days)

    def egress(self) -> float:
        """Price of a gigabyte that leaves the provider. [USD/GB]"""
        if self.egress_usd_per_gb is not None:
            return self.egress_usd_per_gb
        return services().get(self.provider.lower(), (0.0, 0.0))[0]

    def storage(self) -> float:
        """Price of keeping a gigabyte for a month. [USD/GB/month]"""
        if self.storage_usd_per_gb_month is not None:
            return self.storage_usd_per_gb_month
        return services().get(self.provider.lower(), (0.0, 0.0))[1]


def place_of(provider: str, region: str) -> str:
    """A provider and its region, where the price is of one; "" of a price of one's own."""
    return " ".join(part for part in (provider, region) if part not in ("", "any"))


def regions_differ(one: str, other: str) -> bool:
    """Whether two regions, both named, are not the same."""
    return len({one, other} - {"", "any"}) > 1


class Currency(NamedTuple):
    """A currency and its dollar rate."""

    code: str
    usd: float
    as_of: str

    def of(self, usd: float) -> float:
        """Dollars in it."""
        return usd / self.usd

    @property
    def note(self) -> str:
        """At which rate, where it is not the dollar."""
        return "" if self.code == "USD" else f"1 {self.code} = {self.usd:g} USD ({self.as_of})"


@cache
def regions() -> tuple[tuple[str, str, str, str], ...]:
    """Provider, beginning of a region's name, its country and residency; the longest first."""
    with (PRICES / "regions.csv").open(encoding="utf-8", newline="") as file:
        found = [(r["provider"], r["region"], r["country"], r["residency"])
                 for r in csv.DictReader(file)]  # fmt: skip
    return tuple(sorted(found, key=lambda row: -len(row[1])))


@lru_cache(maxsize=1024)  # of a catalogue's many rows few are of another region
def whereabouts(provider: str, region: str) -> tuple[str, str]:
    """Country (ISO 3166 alpha-3) and residency of a provider's region; "" where not known."""
    for name, beginning, country, residency in regions():
        if name == provider.lower() and region.lower().startswith(beginning):
            return country, residency
    return "", ""


def residencies(provider: str, region: str) -> tuple[str, ...]:
    """Where data may be in a provider's region, or in any provider's whose region begins so."""
    if provider:
        found = whereabouts(provider, region)[1]
        return (found,) if found else ()
    there = {
        residency for _, beginning, _, residency in regions()
        if region and (region.lower().startswith(beginning) or beginning.startswith(region.lower()))
    }  # fmt: skip
    return tuple(sorted(there))


@cache
def services() -> dict[str, tuple[float, float]]:
    """Egress and storage price by provider. [USD/GB], [USD/GB/month]"""
    with (PRICES / "services.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["provider"]: (
                float(row["egress_usd_per_gb"]),
                float(row["storage_usd_per_gb_month"]),
            )
            for row in csv.DictReader(file)
        }


@cache
def currencies() -> dict[str, Currency]:
    """Dollar rates by currency, in capitals."""
    with (PRICES / "currencies.csv").open(encoding="utf-8", newline="") as file:
        found = {
            row["currency"]: Currency(row["currency"], float(row["usd"]), row["as_of"])
            for row in csv.DictReader(file)
        }
    return {"USD": Currency("USD", 1.0, ""), **found}


def currency_of(text: str) -> Currency:
    """``EUR`` at the shipped rate, or ``EUR=1.10`` at one of one's own, in dollars.

    Raises
    ------
    InputError
        A currency without a rate, or a rate that is none.
    """
    code, _, rate = text.strip().upper().partition("=")
    if rate:
        try:
            usd = float(rate)
        except ValueError:
            usd = 0.0
        if not 1e-6 < usd < 1e6 or not code.isalpha():
            raise InputError.single(_CURRENCY, f"{text!r} is no rate; write EUR=1.10", code)
        return Currency(code, usd, "as given")
    if code not in currencies():
        known = ", ".join(currencies())
        message = f'no dollar rate of "{code}" here ({known}); write {code or "EUR"}=1.10'
        raise InputError.single(_CURRENCY, message, code)
    return currencies()[code]
