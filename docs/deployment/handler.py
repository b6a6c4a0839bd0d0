"""A serverless handler: two photographs in base64 -> whether they show one person.

For platforms that call `handler(event, context)`, such as AWS Lambda behind an HTTP gateway: the folder that `export`
wrote lies beside this file as `deploy`. It is opened once for each instance. The platform bounds time and memory; what
an image may be is bounded here.
"""

import base64
import binascii
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("deploy")
sys.path.insert(0, str(FOLDER))
from runtime import Limits, Recognizer, RefusedError, read_image  # noqa: E402

LIMITS = Limits()
RECOGNIZER = Recognizer(FOLDER)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer {"first": base64, "second": base64, "far": number or none} with what `Recognizer.verify` says."""
    try:
        asked = json.loads(event["body"])
        images = [read_image(_decoded(asked[name]), LIMITS) for name in ("first", "second")]
        far = asked.get("far")
        return _reply(200, RECOGNIZER.verify(*images, None if far is None else float(far)))
    except RefusedError as error:
        return _reply(422, {"detail": str(error)})
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return _reply(400, {"detail": "expected a JSON object with first and second, images in base64"})


def _decoded(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > LIMITS.max_bytes * 4 // 3 + 4:
        raise RefusedError(f"an image is text in base64 of at most {LIMITS.max_bytes} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise RefusedError("not base64") from None


def _reply(status: int, content: dict[str, Any]) -> dict[str, Any]:
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(content)}
