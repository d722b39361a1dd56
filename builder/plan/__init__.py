"""What an image will cost, before anything moves."""

from builder.plan.findings import TITLES
from builder.plan.forecast import Disk, Forecast, Transfer, forecast
from builder.plan.layers import Contents, Kind, PlannedLayer, Situation
from builder.plan.pins import Pin, pins
from builder.plan.rates import human_rate, rate

__all__ = [
    "TITLES",
    "Contents",
    "Disk",
    "Forecast",
    "Kind",
    "Pin",
    "PlannedLayer",
    "Situation",
    "Transfer",
    "forecast",
    "human_rate",
    "pins",
    "rate",
]
