"""onnxruntime behind what torch's networks offer, so that both are measured by the same code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evaluation import Description
from models.face_model import FaceModel
from models.onnx.wrapped import Form
from transforms import to_image

if TYPE_CHECKING:
    import onnx


def open_session(graph: onnx.ModelProto | Path, num_threads: int | None = None) -> Any:
    """Return an onnxruntime session on the CPU.

    Args:
        graph: in memory, with its weights, or a file.
        num_threads: of an operator; None: as torch has.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class SessionModel(FaceModel):
    """A FaceModel that describes faces by a graph; its matcher and what scores mean are those of the torch model.

    What it does is what `models.describe_portraits` and `models.score_listed` ask of a model, so calibrations and costs
    are measured as everywhere.

    Args:
        model: that the graph was exported from.
        graph: of `export_describe`.
        form: that it was exported in. With `flip` a map and a visibility are those of the first view.
        precision: "float32", "fp16" or "int8", for `form`.
    """

    def __init__(self, model: FaceModel, graph: onnx.ModelProto | Path, form: Form, precision: str) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update(copy.copy(model).__dict__)
        self.graph_form, self.form = form, f"onnx {precision}"
        self.session = open_session(graph)

    def describe(self, images: Tensor) -> Description:
        """Return what the graph says of images [B, 3, 112, 112] float32 in [-1, 1], RGB; see `FaceModel.describe`."""
        given = to_image(images) if self.graph_form.preprocess else images.float()
        if self.graph_form.color_order == "bgr":
            given = given.flip(-1 if self.graph_form.preprocess else 1)
        found = self.session.run(None, {"images": given.contiguous().numpy()})
        embedding, norm, local_map, *seen = (torch.from_numpy(each) for each in found)
        if self.graph_form.flip:
            local_map, seen = local_map[:, 0], [each[:, 0] for each in seen]
        return Description(embedding, norm, local_map, seen[0] if seen else None)
