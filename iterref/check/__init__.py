"""Check: whether a denoiser keeps the conventions that every method here relies on; for adapters of all kinds.

    findings = check(denoiser, texts)                  form alone: any possible tokens will do as texts
    findings = check(denoiser, texts, real=True)       meaning too: texts that the model was trained to write
    findings = check_model(model, texts)               a text model, its tokenizer and its prompts besides
    print(table(findings))
"""

from iterref.check.checks import check, check_model, table
from iterref.check.findings import Finding

__all__ = ["Finding", "check", "check_model", "table"]
