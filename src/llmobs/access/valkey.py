"""Allowances in Valkey or Redis: one script an ask, which the server runs whole."""

from typing import Any

import redis.asyncio as client
from redis.exceptions import RedisError

from llmobs.domain.allowance import AHEAD_SHARE, BURST, HOUR, Ask, Grant, Window
from llmobs.errors import StoreUnavailable

SETTLE = f"""
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local allowed, burst, wanted, ahead, returned, mine, mine_burst = unpack(ARGV)
allowed, burst, wanted = tonumber(allowed), tonumber(burst), tonumber(wanted)
ahead, returned = tonumber(ahead), tonumber(returned)
mine, mine_burst = tonumber(mine), tonumber(mine_burst)
local kept = redis.call('HMGET', KEYS[1], 's', 'u', 'b', 'v')
local s, u = tonumber(kept[1]) or now, tonumber(kept[2]) or 0
local b, v = tonumber(kept[3]) or now, tonumber(kept[4]) or 0
if s + {HOUR} <= now then s, u = now, 0
elseif s == mine then u = math.max(0, u - returned) end
if b + {BURST} <= now then b, v = now, 0
elseif b == mine_burst then v = math.max(0, v - returned) end
local left = math.max(0, math.min(allowed - u, burst - v))
local granted = math.min(wanted, left) + math.min(ahead, math.floor(math.max(0, left - wanted) / {AHEAD_SHARE}))
u, v = u + granted, v + granted
local function whole(x) return string.format('%.0f', x) end
redis.call('HSET', KEYS[1], 's', whole(s), 'u', whole(u), 'b', whole(b), 'v', whole(v))
redis.call('PEXPIRE', KEYS[1], {2 * HOUR // 1000})
return {{whole(granted), whole(s), whole(u), whole(b), whole(v), whole(now)}}
"""
"""`settle` in Lua. Numbers are doubles there, which hold microseconds exactly until the year 2255."""


class ValkeyAllowances:
    """Keeps windows in hashes that fade two hours after their last use. Raises StoreUnavailable."""

    def __init__(self, url: str, seconds: float) -> None:
        """`url` as `redis://host:6379/0`; `seconds` is the longest wait for an answer."""
        known = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        self._client: Any = client.Redis.from_url(
            known, socket_timeout=seconds, socket_connect_timeout=seconds, decode_responses=True
        )
        self._settle = self._client.register_script(SETTLE)

    async def take(self, ask: Ask) -> Grant:
        """Give what is left, as `settle` says."""
        try:
            found = await self._settle(
                keys=[f"llmobs:rate:{{{ask.client_id}}}:{ask.meter.value}"],
                args=[
                    *(ask.allowed, ask.burst, ask.wanted, ask.ahead),
                    *(ask.returned, ask.started_at, ask.burst_at),
                ],
            )
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(type(error).__name__) from None
        granted, started_at, used, burst_at, burst_used, now = map(int, found)
        window = Window(started_at=started_at, used=used, burst_at=burst_at, burst_used=burst_used)
        return Grant(granted=granted, window=window, now=now)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
