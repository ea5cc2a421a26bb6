"""Renders or lints a chart with Helm's own code; run by the Python of .tools/deployment.

usage: render_chart.py CHART         values as JSON on standard input, manifests as YAML on standard output
       render_chart.py CHART --lint  a finding a line on standard output
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

WARNING = 2


def main() -> int:
    """Do what the command line says; the exit status is 1 where the chart cannot be rendered."""
    # Named by its text: the environment that checks types has no such package.
    helm = import_module("helm_python")
    chart, values = sys.argv[1], json.load(sys.stdin)
    if sys.argv[2:] == ["--lint"]:
        report = helm.lint(chart, values, strict=True, kube_version="v1.31.0")
        findings = [each["error"] for each in report["messages"] if each["severity"] >= WARNING]
        print("\n".join([*report["errors"], *findings]))
        return 0
    with helm.Chart.load(chart) as loaded:
        try:
            loaded.validate_schema(values)
            rendered = loaded.render(values, name="test", namespace="trading")
        except helm.HelmError as error:
            print(error)
            return 1
    for name, manifest in sorted(rendered.items()):
        if not name.endswith(".txt"):
            print(f"---\n{manifest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
