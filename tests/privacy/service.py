"""A service that quotes every prompt wherever it can. The first word of one says what happens."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.artifacts.pictures import encoded, plain
from tests.servers import Answer, Request, reply

#: What the models' logs say besides.
LOG_LINE = "lOgLiNe4Wz8Qk2Xr7TbVn9Yc3HsUp6Jm"

_PREDICTION = re.compile(r"/replicate/v1/predictions/(\w+)")
_PICTURE = f"data:image/png;base64,{base64.b64encode(encoded(plain(), 'PNG')).decode()}"


@dataclass
class Service:
    """What was asked of it, by the ids of the predictions."""

    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def answer(self, request: Request) -> Answer:
        """Answer a request."""
        path = request.target.partition("?")[0]
        if path == "/v1/chat/completions":
            return self._chat(json.loads(request.body))
        found = _PREDICTION.match(path)
        if found and path.endswith("/cancel"):
            input = self.inputs.get(found[1], {})
            return reply({"detail": f"can not cancel “{input.get('prompt')}”"}, 409)
        if found:
            return self._query(found[1], self.inputs.get(found[1], {}))
        return self._create(json.loads(request.body)["input"])

    def _create(self, input: dict[str, Any]) -> Answer:
        prompt = str(input.get("prompt"))
        case, quoted = prompt.split()[0], f"The prompt was: {prompt!r}, {json.dumps(prompt)}"
        match case:
            case "refused":
                fields = [{"field": "input.prompt", "description": f"{prompt} is too long"}]
                return reply({"detail": quoted, "title": "No", "invalid_fields": fields}, 422)
            case "gateway":
                return reply({"error": {"message": quoted, "type": "gateway"}}, 502)
            case "plain":
                return Answer(500, quoted.encode(), {"content-type": "text/plain"})
            case "account":
                return reply({"error": {"message": quoted}}, 401)
            case "dropped":
                return Answer(end="drop")
            case "page":
                return Answer(200, f"<html>{quoted}</html>".encode(), {"content-type": "text/html"})
            case "nameless":
                return reply({"detail": quoted, "input": input}, 201)
            case "busy" if "busy" not in self.asked:
                self.asked.add("busy")
                return reply({"detail": quoted, "retry_after": 0.05}, 429)
        prediction_id = f"p{len(self.inputs):025d}"
        self.inputs[prediction_id] = input
        return reply(self._prediction(prediction_id, input, "starting"), 201)

    def _query(self, prediction_id: str, input: dict[str, Any]) -> Answer:
        prompt = str(input.get("prompt", ""))
        case = prompt.split()[0] if prompt else ""
        first = prediction_id not in self.asked
        self.asked.add(prediction_id)
        if first and case == "flaky":
            return reply({"error": {"message": f"upstream failed for {prompt}"}}, 502)
        if case == "gone":
            return reply({"detail": f"no such thing as {prompt}", "code": "task_not_exist"}, 404)
        status = {
            "failed": "failed",
            "filtered": "failed",
            "canceled": "canceled",
            "slow": "processing",
        }.get(case, "succeeded")
        return reply(self._prediction(prediction_id, input, status))

    def _prediction(self, prediction_id: str, input: dict[str, Any], status: str) -> dict[str, Any]:
        prompt = str(input.get("prompt", ""))
        why = {"failed": "bad prompt", "filtered": "NSFW content detected", "canceled": "canceled"}
        wrong = status in ("failed", "canceled")
        case = prompt.split()[0] if prompt else ""
        return {
            "id": prediction_id,
            "model": "owner/name",
            "status": status,
            "input": {} if case == "failed" else input,
            "output": _PICTURE if status == "succeeded" else None,
            "error": f"{why.get(case, '')}: {prompt[:90].upper()}" if wrong else None,
            "logs": f"Prompt: {prompt}\n{LOG_LINE}\nrewritten: {prompt} in gold",
            "created_at": "2026-11-22T00:00:00Z",
            "completed_at": None
            if status in ("starting", "processing")
            else "2126-11-22T00:00:00Z",
        }

    def _chat(self, body: dict[str, Any]) -> Answer:
        asked = body["messages"][-1]["content"]
        brief = asked.partition("Brief: ")[2].partition("\n")[0]
        if brief.startswith("refused"):
            return reply({"error": {"message": f"can not write about {brief}"}}, 400)
        said = f"I will not write about {brief}."
        if brief.startswith("written"):
            said = json.dumps({"prompts": [f"fine and {brief}"]})
        message = {"role": "assistant", "content": said}
        return reply({"id": "c1", "choices": [{"message": message, "finish_reason": "stop"}]})
