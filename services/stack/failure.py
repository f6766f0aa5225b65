"""A failure as text: its code, message and remedy, and what caused it. Knows no kind of failure."""


def causes(failure: BaseException) -> str:
    """Several lines; of an exception group, its first member."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    code = getattr(failure, "code", type(failure).__name__)
    text = f"{code}: {failure}" if str(failure) else str(code)
    remedy = getattr(failure, "remedy", "")
    text += f"\nremedy: {remedy}" if isinstance(remedy, str) and remedy else ""
    deeper = failure.__cause__
    return text + (f"\nbecause: {causes(deeper)}" if deeper is not None else "")
