"""Rows on disk: one an image, keyed by the hash of its file; numpy in and out, never torch."""

from fwd2bot.store.base import Store
from fwd2bot.store.quantise import DEFAULT_QUANTISATION, QUANTISERS, Quantiser
from fwd2bot.store.rows import FORMAT, Header, Row, StoreInfo

__all__ = ["DEFAULT_QUANTISATION", "FORMAT", "QUANTISERS", "Header", "Quantiser", "Row", "Store", "StoreInfo"]
