"""fields.py DIR: every field of HTTPRoute, GRPCRoute and ReferenceGrant v1 below `spec` and `status`, from the
definitions in DIR/standard and DIR/experimental; those of the experimental channel alone have an x."""
import pathlib, sys, yaml


def leaves(schema, path):
    if "properties" in schema:
        for name, below in schema["properties"].items():
            yield from leaves(below, f"{path}.{name}" if path else name)
    elif schema.get("type") == "array":
        yield from leaves(schema["items"], path + "[]")
    else:
        yield path


def fields(folder, plural):
    definition = yaml.safe_load(pathlib.Path(folder, f"gateway.networking.k8s.io_{plural}.yaml").read_text())
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    return [path for path in leaves(schema, "") if path.startswith(("spec.", "status."))]


for kind in ("HTTPRoute", "GRPCRoute", "ReferenceGrant"):
    standard, experimental = (fields(pathlib.Path(sys.argv[1], channel), f"{kind.lower()}s") for channel in ("standard", "experimental"))
    assert set(standard) <= set(experimental)
    for path in experimental:
        print(f"{kind} {path}{'' if path in standard else ' x'}")
