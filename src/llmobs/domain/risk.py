"""The closed lists: failure classes, severities and actions."""

from enum import StrEnum


class FailureClass(StrEnum):
    """Built-in failure classes. Operators may add classes of their own by name in a policy."""

    PROMPT_INJECTION = "prompt_injection"
    DANGEROUS_CONTENT = "dangerous_content"
    TOXICITY = "toxicity"
    SECRET_LEAK = "secret_leak"
    FABRICATED_FACT = "fabricated_fact"
    FABRICATED_CONCEPT = "fabricated_concept"
    SECURITY_ATTACK = "security_attack"
    PII_LEAK = "pii_leak"
    MISSING_GROUNDING = "missing_grounding"
    DOMAIN_MISMATCH = "domain_mismatch"
    BIAS = "bias"
    OVERCONFIDENCE = "overconfidence"
    HEDGING_EXCESSIVE = "hedging_excessive"
    TONE_ISSUE = "tone_issue"
    FORMATTING_ISSUE = "formatting_issue"


class Severity(StrEnum):
    """How bad it is when the class is really present."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low to 3 for critical."""
        return _SEVERITY_RANK[self]


class Action(StrEnum):
    """What the caller is told to do with the text, mildest first."""

    ALLOW = "allow"
    LOG = "log"
    WARN = "warn"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """0 for allow to 3 for block."""
        return _ACTION_RANK[self]


_SEVERITY_RANK = {severity: rank for rank, severity in enumerate(Severity)}
_ACTION_RANK = {action: rank for rank, action in enumerate(Action)}
