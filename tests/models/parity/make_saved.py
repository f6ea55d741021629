"""Write saved.tar.xz: one small network's weights as many programs save them.

    python -m tests.models.parity.make_saved torch
    KERAS_BACKEND=jax python -m tests.models.parity.make_saved keras

from the root of the repository; each writes its own files and leaves the others. ``torch`` needs
PyTorch, timm, pytorch-lightning, safetensors and huggingface_hub (made with 2.13, 1.0.31, 2.6.6),
``keras`` needs Keras 3 (made with 3.15). ``test_saved.py`` reads them; the files of averages hold
``values(1)`` as the average and ``values(0)`` as the other weights, all others ``values(0)``.
"""

import argparse
import io
import pathlib
import sys
import tarfile
import tempfile
from typing import Any

import numpy as np

FILE = pathlib.Path(__file__).parent / "saved.tar.xz"
SHAPES = {
    "conv1.weight": (4, 3, 3, 3),
    "bn1.weight": (4,),
    "bn1.bias": (4,),
    "bn1.running_mean": (4,),
    "bn1.running_var": (4,),
    "fc.weight": (5, 4),
    "fc.bias": (5,),
}


def values(seed):
    """The network's arrays, which float16 and bfloat16 hold exactly."""
    generator = np.random.RandomState(seed)
    return {k: generator.randint(1, 64, s).astype(np.float32) / 32 for k, s in SHAPES.items()}


def torch_files(folder):
    import huggingface_hub as hub
    import pytorch_lightning as lightning
    import timm.utils
    import torch
    import torch.distributed.checkpoint
    from safetensors import torch as safetensors
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self, seed=0, classes=5, features=3):
            super().__init__()
            self.conv1 = nn.Conv2d(features, 4, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, classes)
            if classes == 5 and features == 3:
                given = {k: torch.from_numpy(v) for k, v in values(seed).items()}
                self.load_state_dict(given, strict=False)

        def forward(self, x):
            return self.fc(self.bn1(self.conv1(x)).relu().mean((2, 3)))

    def save(name, content, **options):
        torch.save(content, folder / name, **options)

    net, average = Tiny(), Tiny(1)
    state, averaged = net.state_dict(), average.state_dict()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    arguments = argparse.Namespace(lr=0.1, model="tiny", opt_betas=(0.9, 0.99))
    trained = {"optimizer": optimiser.state_dict(), "epoch": 3, "args": arguments}

    save("state.pth", state)
    save("old.pth", state, _use_new_zipfile_serialization=False)
    save("protocol4.pt", state, pickle_protocol=4)
    save("model.bin", state)
    save("parameters.pt", dict(net.named_parameters()) | dict(net.named_buffers()))
    save("bfloat16.pt", Tiny().bfloat16().state_dict())
    save("half.pt", Tiny().half().state_dict())
    save("channels_last.pt", Tiny().to(memory_format=torch.channels_last).state_dict())
    save("tutorial.tar", {"model_state_dict": state, "loss": torch.tensor(0.3), "epoch": 5})
    save("imagenet.pth.tar", {"arch": "tiny", "state_dict": state, "best_acc1": torch.ones(())})
    save("numpy_scalars.ckpt", {"net": state, "acc": np.float64(0.7), "step": np.int64(3)})

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel = nn.parallel.DistributedDataParallel(Tiny())
    save("ddp.pth", parallel.state_dict())
    save("compile.pth", torch.compile(Tiny()).state_dict())
    both = nn.parallel.DistributedDataParallel(torch.compile(Tiny()))
    save("ddp_of_compile.pth", {"model": both.state_dict()})
    torch.distributed.checkpoint.save({"model": state}, checkpoint_id=folder / "distributed")
    torch.distributed.destroy_process_group()

    class Lit(lightning.LightningModule):
        def __init__(self, inside="model", rate=0.1):
            super().__init__()
            self.save_hyperparameters()
            setattr(self, inside, Tiny())
            self.loss = nn.CrossEntropyLoss()

        def training_step(self, batch, _):
            return getattr(self, self.hparams.inside)(batch).sum() * 0

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 0.0)

    for inside in ("model", "net"):
        lit = Lit(inside).eval()
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = lightning.Trainer(
            max_steps=1, accelerator="cpu", default_root_dir=folder / "none", **quiet
        )
        trainer.fit(lit, torch.utils.data.DataLoader(torch.zeros(2, 3, 4, 4)))
        trainer.save_checkpoint(folder / f"lightning_{inside}.ckpt")

    ema = timm.utils.ModelEmaV3(average)
    saver = timm.utils.CheckpointSaver(
        net, optimiser, args=arguments, model_ema=ema, checkpoint_dir=str(folder)
    )
    saver.save_checkpoint(epoch=3, metric=0.7)
    (folder / "last.pth.tar").rename(folder / "timm.pth.tar")
    for other in [*folder.glob("checkpoint-*"), *folder.glob("model_best*")]:
        other.unlink()
    swa = torch.optim.swa_utils.AveragedModel(average)
    save("torchvision.pth", {"model": state, "model_ema": swa.state_dict(), **trained})
    save("swa.pth", torch.optim.swa_utils.AveragedModel(Tiny()).state_dict())
    save("basicsr.pth", {"params": state, "params_ema": averaged})
    save("dino.pth", {"student": state, "teacher": averaged, "epoch": 3})
    save("average_alone.pth", {"model_ema": averaged, "epoch": 3})
    save("deepspeed.pt", {"module": state, "buffer_names": ["bn1"], "optimizer": None})
    save("composer.pt", {"state": {"model": state, "optimizers": {"SGD": trained["optimizer"]}}})
    save("mine.pt", {"my_weights": state, "epoch": 3, "opt": trained["optimizer"]})

    safetensors.save_file(state, folder / "file.safetensors", {"format": "pt"})
    safetensors.save_model(net, str(folder / "model_of.safetensors"))
    for safe, name in ((True, "sharded"), (False, "sharded_bin")):
        (folder / name).mkdir()
        hub.save_torch_state_dict(state, folder / name, max_shard_size=200, safe_serialization=safe)

    class Mixed(Tiny, hub.PyTorchModelHubMixin):
        pass

    Mixed(seed=0).save_pretrained(folder / "mixin")
    net.pretrained_cfg = {"architecture": "tiny", "input_size": (3, 6, 5)}
    net.num_classes, net.num_features = 5, 4
    timm.models.save_for_hf(net, folder / "timm_hub", safe_serialization=True)
    bare = folder / "timm_hub_bin"
    timm.models.save_for_hf(net, bare, safe_serialization=False)

    # What is refused.
    save("module.pth", nn.Sequential(nn.Linear(2, 3)))
    torch.jit.script(net).save(folder / "script.pt")
    exported = torch.export.export(Tiny().eval(), (torch.zeros(1, 3, 4, 4),))
    torch.export.save(exported, folder / "exported.pt2")
    save("optimiser.pth", optimiser.state_dict())
    save("list.pth", [state])
    save("two.pth", {"generator": state, "discriminator": averaged, "step": 3})
    save("sparse.pth", {**state, "fc.weight": state["fc.weight"].to_sparse()})
    save("quantised.pth", {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)})
    save("path.pth", {"model": state, "args": argparse.Namespace(out=pathlib.Path("x"))})
    save("head.pth", Tiny(classes=7).state_dict())
    save("grey.pth", Tiny(features=1).state_dict())
    save("extra.pth", {**state, "aux.fc.weight": torch.ones(2), "aux.fc.bias": torch.ones(2)})
    nn.utils.parametrizations.weight_norm(net.conv1)
    save("weight_norm.pth", net.state_dict())
    renamed = {k.replace("fc.", "classifier."): v for k, v in state.items()}
    save("head_renamed.pth", renamed)


def keras_files(folder):
    import zipfile

    import keras

    layers, found = keras.layers, values(0)

    def tiny(head, within=False):
        image = keras.Input((6, 5, 3))
        y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem_conv")(image)
        y = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(y))
        if within:
            body = keras.Model(image, y, name="body")
            image = keras.Input((6, 5, 3))
            y = body(image)
        y = layers.Dense(5, name=head)(layers.GlobalAveragePooling2D()(y))
        net = keras.Model(image, y)
        norm = [found[f"bn1.{n}"] for n in ("weight", "bias", "running_mean", "running_var")]
        body = net.get_layer("body") if within else net
        body.get_layer("stem_conv").set_weights([found["conv1.weight"].transpose(2, 3, 1, 0)])
        body.get_layer("stem_bn").set_weights(norm)
        net.get_layer(head).set_weights([found["fc.weight"].T, found["fc.bias"]])
        return net

    net = tiny("predictions")
    net.compile("adam", "mse")
    net.save(folder / "net.keras")
    net.save_weights(folder / "net.weights.h5")
    net.save(folder / "legacy.h5")
    tiny("dense").save(folder / "dense.keras")
    tiny("dense", within=True).save(folder / "within.h5")
    tiny("dense", within=True).save_weights(folder / "within.weights.h5")
    net.save_weights(folder / "shards.weights.json", max_shard_size=1e-6)
    with zipfile.ZipFile(folder / "model.mltk.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "legacy.h5", "net.h5")
        archive.writestr("net.h5.summary.txt", "a network")


def main(which):
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        {"torch": torch_files, "keras": keras_files}[which](folder)
        made = {f"{which}/{p.relative_to(folder)}": p.read_bytes() for p in files(folder)}
    kept: dict[str, Any] = {}
    if FILE.exists():
        with tarfile.open(FILE) as archive:
            whole = {m.name: archive.extractfile(m) for m in archive if m.isfile()}
            kept = {name: file.read() for name, file in whole.items() if file is not None}
    kept = {name: data for name, data in kept.items() if not name.startswith(f"{which}/")}
    with tarfile.open(FILE, "w:xz") as archive:
        for name, data in sorted((kept | made).items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


if __name__ == "__main__":
    main(sys.argv[1])
