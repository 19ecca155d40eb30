"""Sandbox: untrusted programs under limits (jail), what runs inside (candidate), and who asks them (tester, runs)."""
