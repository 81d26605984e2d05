"""Closed schemas of the custom resources that the chart renders: the fields that it uses, and no others.

The tests use them where the CRD itself is not at hand. They were compared with the CRDs of Kueue 0.19 and the
Prometheus operator 0.93.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
COUNT: Schema = {"type": "integer", "minimum": 0}
QUANTITY: Schema = {"anyOf": [COUNT, {"type": "string", "pattern": "^[0-9]+(m|Mi|Gi|Ti)?$"}]}
DURATION: Schema = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _resource(spec: Schema) -> Schema:
    return _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=STRING,
        kind=STRING,
        metadata={"type": "object"},
        spec=spec,
    )


_SELECTOR = _object(matchLabels=STRINGS)
_KEY = _object(("name", "key"), name=STRING, key=STRING)
_TOLERATION = _object(key=STRING, operator=STRING, value=STRING, effect=STRING)
_ENDPOINT = _object(
    ("port",), port=STRING, path=STRING, interval=DURATION, basicAuth=_object(username=_KEY, password=_KEY)
)
_RULE: Schema = _object(
    ("alert", "expr"), alert=STRING, expr=STRING, labels=STRINGS, annotations=STRINGS, **{"for": DURATION}
)
_QUOTA = _object(("name", "nominalQuota"), name=STRING, nominalQuota=QUANTITY)
_FLAVOR = _object(("name", "resources"), name=STRING, resources=_list(_QUOTA))
_GROUP = _object(
    ("coveredResources", "flavors"),
    coveredResources=_list(STRING),
    flavors={**_list(_FLAVOR), "maxItems": 16},
)

SCHEMAS: dict[str, Schema] = {
    "monitoring.coreos.com/ServiceMonitor": _resource(
        _object(("selector", "endpoints"), selector=_SELECTOR, endpoints=_list(_ENDPOINT))
    ),
    "monitoring.coreos.com/PodMonitor": _resource(
        _object(
            ("selector",),
            selector=_SELECTOR,
            podTargetLabels=_list(STRING),
            podMetricsEndpoints=_list(_ENDPOINT),
        )
    ),
    "monitoring.coreos.com/PrometheusRule": _resource(
        _object(groups=_list(_object(("name", "rules"), name=STRING, rules=_list(_RULE))))
    ),
    "kueue.x-k8s.io/ResourceFlavor": _resource(
        _object(
            nodeLabels=STRINGS,
            tolerations=_list(_TOLERATION),
            nodeTaints=_list(_object(("key", "effect"), key=STRING, value=STRING, effect=STRING)),
        )
    ),
    "kueue.x-k8s.io/LocalQueue": _resource(_object(("clusterQueue",), clusterQueue=STRING)),
    "kueue.x-k8s.io/ClusterQueue": _resource(
        _object(
            ("resourceGroups",),
            namespaceSelector=_SELECTOR,
            queueingStrategy={"enum": ["BestEffortFIFO", "StrictFIFO"]},
            preemption=_object(
                withinClusterQueue={"enum": ["Never", "LowerPriority", "LowerOrNewerEqualPriority"]}
            ),
            resourceGroups=_list(_GROUP),
        )
    ),
}
