"""Who may call, and how much: API keys, bearer tokens, rate limits."""
