"""websocket.py <url>: listens with the Python package `websockets`, and reconnects with the last position.

The environment variable API_KEY, when set, is sent as X-API-Key. Prints one JSON line per observation, as
websocket.mjs does; ends when stdin ends.
"""

import asyncio
import json
import os
import sys

import websockets


def emit(observation):
    print(json.dumps(observation), flush=True)


async def listen(url):
    key, cursor = os.environ.get("API_KEY"), None
    headers = {"X-API-Key": key} if key else {}
    while True:
        target = url if cursor is None else f"{url}&cursor={cursor}"
        try:
            async with websockets.connect(target, extra_headers=headers) as socket:
                emit({"open": True})
                async for message in socket:
                    frame = json.loads(message)
                    ready = frame.get("event") == "ready"
                    position = frame["data"]["position"] if ready else frame.get("id", frame.get("position"))
                    if position is not None and "replay" not in frame:
                        cursor = position
                    emit({"event": frame.get("event", "position"), "id": position, "data": frame.get("data")})
        except (OSError, websockets.WebSocketException):
            pass
        emit({"error": "connection lost", "readyState": 0})
        await asyncio.sleep(0.2)


async def main():
    listening = asyncio.create_task(listen(sys.argv[1]))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    listening.cancel()


asyncio.run(main())
