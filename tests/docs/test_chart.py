"""deploy/helm/anneal, rendered by Helm's own code and held to what it installs."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from services.trainer.control.adapters.demand import LAG
from tests.compose import DEPLOY
from tests.configurations import CLIENTS, CONFIGS, variables_of

helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")

CHART = DEPLOY / "helm" / "anneal"
Objects = Mapping[tuple[str, str], Any]
SERVED = sorted(set(CONFIGS) - {"node"})


def rendered(values: Mapping[str, Any]) -> Objects:
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(dict(values), name="demo", namespace="prod")
    objects = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@pytest.fixture(scope="module")
def chart() -> Objects:
    return rendered({})


def container_of(chart: Objects, name: str) -> Any:
    (container,) = chart["Deployment", name]["spec"]["template"]["spec"]["containers"]
    return container


def told(chart: Objects, name: str) -> dict[str, str]:
    """The environment; where a secret tells a variable, the key in it."""
    return {
        one["name"]: one.get("value") or one["valueFrom"]["secretKeyRef"]["key"]
        for one in container_of(chart, name)["env"]
    }


def test_it_is_in_order() -> None:
    assert helm.lint(str(CHART))["errors"] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_a_program_knows_every_variable_that_it_is_given(chart: Objects, name: str) -> None:
    ours = {variable for variable in told(chart, name) if variable.startswith("ANNEAL_")}
    assert ours - CLIENTS <= set(variables_of(CONFIGS[name]))
    names = [one["name"] for one in container_of(chart, name)["env"]]
    assert len(names) == len(set(names))


def test_the_values_say_which_secrets_must_be_there(chart: Objects) -> None:
    values = (CHART / "values.yaml").read_text("utf-8")
    asked = [
        one["valueFrom"]["secretKeyRef"]["key"]
        for name in CONFIGS
        for one in container_of(chart, name)["env"]
        if "valueFrom" in one
    ]
    assert [key for key in asked if not re.search(rf"# .*\b{key}\b", values)] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_started_by_its_command_in_an_image_that_has_it(chart: Objects, name: str) -> None:
    container = container_of(chart, name)
    assert container["args"] == ["anneal", "node"] if name == "node" else ["anneal", "serve", name]
    assert container["image"].startswith(
        "anneal-node:" if name in ("node", "inference") else "anneal-control:"
    )


@pytest.mark.parametrize("name", SERVED)
def test_a_service_is_asked_where_it_listens(chart: Objects, name: str) -> None:
    (port,) = chart["Service", name]["spec"]["ports"]
    assert told(chart, name)["ANNEAL_SERVER_LISTEN"] == f"0.0.0.0:{port['port']}"
    for probe in ("startupProbe", "readinessProbe"):
        check = container_of(chart, name)[probe]["exec"]["command"]
        assert check == ["python", "-P", "-m", "anneal.health", f"localhost:{port['port']}"]


@pytest.mark.parametrize("name", CONFIGS)
def test_an_address_is_a_service_of_the_chart(chart: Objects, name: str) -> None:
    for variable, value in told(chart, name).items():
        if variable.endswith("_ADDRESS"):
            service, _, port = value.partition(":")
            assert variable == f"ANNEAL_{service.upper()}_ADDRESS"
            assert chart["Service", service]["spec"]["ports"][0]["port"] == int(port)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_mounted_is_there_and_nothing_else_can_be_written(
    chart: Objects, name: str
) -> None:
    pod, container = (
        chart["Deployment", name]["spec"]["template"]["spec"],
        container_of(chart, name),
    )
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", CONFIGS)
def test_selectors_find_their_pods(chart: Objects, name: str) -> None:
    labels = chart["Deployment", name]["spec"]["template"]["metadata"]["labels"]
    selected = [chart["Deployment", name]["spec"]["selector"]["matchLabels"]]
    if name != "node":
        selected.append(chart["Service", name]["spec"]["selector"])
    if budget := chart.get(("PodDisruptionBudget", name)):
        selected.append(budget["spec"]["selector"]["matchLabels"])
    for selector in selected:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/component"] == name


def test_nodes_are_scaled_by_the_lag_that_control_shows(chart: Objects) -> None:
    scaled = chart["ScaledObject", "node"]["spec"]
    assert scaled["scaleTargetRef"] == {"name": "node"}
    assert "replicas" not in chart["Deployment", "node"]["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "nats-jetstream"
    assert (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) == (LAG, LAG)
    assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_nodes_can_be_as_many_as_one_says() -> None:
    nodes = {"replicas": 3, "labels": ["gpu=h200", "region=eu"], "autoscaling": {"enabled": False}}
    chart = rendered({"nodes": nodes})
    assert chart["Deployment", "node"]["spec"]["replicas"] == 3
    assert told(chart, "node")["ANNEAL_LABELS"] == "gpu=h200,region=eu"
    assert "ANNEAL_LABELS" in variables_of(CONFIGS["node"])
    assert ("ScaledObject", "node") not in chart
