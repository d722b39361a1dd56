"""Compatibility: a stack or its lock → findings, each with its source, fix and nearest cell.

Pure: no network, no clock, no files but the catalogue's tables.
"""

from builder.rules.change import Change, Move, changed, described
from builder.rules.finding import SEVERITIES, Finding, Severity
from builder.rules.judge import Verdict, judge, nearest_for_all
from builder.rules.model import ModelFacts, of_config
from builder.rules.registry import Rule, find, rules
from builder.rules.subject import Subject, of_repo

__all__ = [
    "SEVERITIES",
    "Change",
    "Finding",
    "ModelFacts",
    "Move",
    "Rule",
    "Severity",
    "Subject",
    "Verdict",
    "changed",
    "described",
    "find",
    "judge",
    "nearest_for_all",
    "of_config",
    "of_repo",
    "rules",
]
