"""redis_subscriber.py <url> <channel>…: listens on Redis as the services of the replaced systems do.

Prints one JSON line per observation: {"subscribed": channel}, then {"channel", "message", "keys"} with the parsed
message and its keys in the order they came; ends when it is killed.
"""

import json
import sys

import redis

listener = redis.Redis.from_url(sys.argv[1], decode_responses=True).pubsub()
listener.subscribe(*sys.argv[2:])
for heard in listener.listen():
    if heard["type"] == "subscribe":
        print(json.dumps({"subscribed": heard["channel"]}), flush=True)
    else:
        message = json.loads(heard["data"])
        print(json.dumps({"channel": heard["channel"], "message": message, "keys": list(message)}), flush=True)
