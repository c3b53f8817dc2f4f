"""image.py OUT.tar NAME ROOTFS [ENTRYPOINT...]: a folder as a single-layer image archive.

IMAGE_USER, where it is set, becomes the image's user.
"""
import hashlib, io, json, os, sys, tarfile

out, name, rootfs, *entrypoint = sys.argv[1:]


def root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    tar.add(rootfs, arcname=".", filter=root)
layer = layer.getvalue()
config = json.dumps({
    "architecture": "amd64", "os": "linux",
    "config": {"User": os.environ.get("IMAGE_USER", ""), "Entrypoint": entrypoint or None, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}).encode()
files = {
    "layer.tar": layer,
    "config.json": config,
    "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode(),
}
with tarfile.open(out, "w") as tar:
    for path, data in files.items():
        info = tarfile.TarInfo(path)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
