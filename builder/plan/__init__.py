"""What an image will cost, before anything moves."""

from builder.plan.findings import Finding, Severity
from builder.plan.forecast import Disk, Forecast, Transfer, forecast
from builder.plan.layers import Contents, Kind, PlannedLayer, Situation
from builder.plan.rates import human_rate, rate

__all__ = [
    "Contents",
    "Disk",
    "Finding",
    "Forecast",
    "Kind",
    "PlannedLayer",
    "Severity",
    "Situation",
    "Transfer",
    "forecast",
    "human_rate",
    "rate",
]
