"""Data as public reports show it, rebuilt small: where it was reported, what it is, and what is made of it.

docs/field-cases.md lists them; `python tests/field_cases.py` prints its table. tests/unit/data/test_field_log.py tries
each.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

PICTURE = "<picture>"  # content of a picture of SIZE
SIZE = (200, 160)
BOX = [20, 20, 100, 90]
YOLO = "0 0.3 0.34375 0.4 0.4375\n"  # BOX
TO_DO = "to do"
GH = "https://github.com/"


class Error(NamedTuple):
    """What cannot be read: the file that the message begins with, and a word in it."""

    place: str
    word: str


class Case(NamedTuple):
    """A report: its address, what the data is, its files, what is given (images, labels), and what is found: boxes by
    picture, or an Error. `mended` and `skipped` are how many notes there are."""

    source: str
    what: str
    files: Dict[str, Any]
    given: Tuple[Optional[str], Optional[str]]
    found: Union[Dict[str, List[List[float]]], Error]
    mended: int = 0
    skipped: int = 0
    names: Optional[List[str]] = None
    on_bad: str = "error"

    @property
    def result(self) -> str:
        """In words."""
        if isinstance(self.found, Error):
            return f"refused: names {self.found.place} ({self.found.word})"
        notes = [f"{self.mended} noted"] if self.mended else []
        notes += [f"{self.skipped} left out and counted"] if self.skipped else []
        boxes = sum(map(len, self.found.values()))
        return "; ".join([f"read: {len(self.found)} pictures, {boxes} boxes", *notes])


def coco(name: str = "a.jpg", *annotations: Any, categories: Any = None, **image: Any) -> Dict[str, Any]:
    image = {"id": 1, "file_name": name, "width": SIZE[0], "height": SIZE[1], **image}
    entries = annotations or ({},)
    boxes = [
        {"id": i, "image_id": image["id"], "category_id": 1, "bbox": [20, 20, 80, 70], "iscrowd": 0, **a}
        for i, a in enumerate(entries, 1)
    ]
    return {"images": [image], "annotations": boxes, "categories": categories or [{"id": 1, "name": "cat"}]}


def voc(filename: Optional[str] = "a.jpg", name: str = "cat", more: str = "", corners: Any = (21, 21, 100, 90)) -> str:
    told = "" if filename is None else f"<filename>{filename}</filename>"
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    inside = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<annotation>{told}{size}<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object></annotation>"


def yolo(picture: str = "images/a.jpg", label: str = "labels/a.txt", text: str = YOLO, **more: Any) -> Dict[str, Any]:
    return {picture: PICTURE, label: text, "classes.txt": "cat\n", **more}


HERE: Tuple[Optional[str], Optional[str]] = (".", None)
JSON: Tuple[Optional[str], Optional[str]] = ("images", "gt.json")
XML: Tuple[Optional[str], Optional[str]] = (".", None)
ONE = {"a.jpg": [BOX]}
IN = {"images/a.jpg": [BOX]}


def with_json(value: Any, picture: str = "images/a.jpg") -> Dict[str, Any]:
    return {picture: PICTURE, "gt.json": value}


def with_xml(text: str, picture: str = "JPEGImages/a.jpg", file: str = "Annotations/a.xml") -> Dict[str, Any]:
    return {picture: PICTURE, file: text}


VOC_FOUND = {"JPEGImages/a.jpg": [BOX]}
CASES = [
    # names of images
    Case(
        GH + "HumanSignal/label-studio/issues/7294",
        "COCO file_name `..\\..\\label-studio\\media\\upload\\4\\x.png`",
        with_json(coco("..\\..\\label-studio\\media\\upload\\4\\cb-a.jpg"), "images/cb-a.jpg"),
        JSON,
        {"..\\..\\label-studio\\media\\upload\\4\\cb-a.jpg": [BOX]},
    ),
    Case(
        GH + "HumanSignal/label-studio-converter/issues/139",
        "COCO file_name `images\\1/90fb-a.jpg`, the file is images/90fb-a.jpg",
        with_json(coco("images\\1/90fb-a.jpg"), "images/90fb-a.jpg"),
        (".", "gt.json"),
        {"images\\1/90fb-a.jpg": [BOX]},
    ),
    Case(
        GH + "HumanSignal/label-studio/issues/4903",
        "COCO file_name `data/local-files/?d=set/a.jpg`",
        with_json(coco("data/local-files/?d=set/a.jpg")),
        JSON,
        {"data/local-files/?d=set/a.jpg": [BOX]},
    ),
    Case(
        GH + "HumanSignal/label-studio/issues/9366",
        "COCO file_name is a path of the server's storage",
        with_json(coco("/label-studio/data/media/upload/3/a.jpg")),
        JSON,
        {"/label-studio/data/media/upload/3/a.jpg": [BOX]},
    ),
    Case(
        GH + "CVHub520/X-AnyLabeling/issues/700",
        "COCO file_name `..\\label\\12.jpg`",
        with_json(coco("..\\label\\12.jpg"), "images/12.jpg"),
        JSON,
        {"..\\label\\12.jpg": [BOX]},
    ),
    Case(
        GH + "HumanSignal/label-studio/issues/1266",
        "YOLO label `d%C3%A9cran.txt` of the picture `décran.png`",
        yolo("images/d\u00e9cran.png", "labels/d%C3%A9cran.txt"),
        HERE,
        {"images/d\u00e9cran.png": [BOX]},
    ),
    Case(
        GH + "wkentaro/labelme/pull/1672",
        "names in NFD on disk, in NFC in the labels",
        with_json(coco("caf\u00e9.jpg"), "images/cafe\u0301.jpg"),
        JSON,
        {"caf\u00e9.jpg": [BOX]},
    ),
    Case(
        GH + "llmsresearch/paperbanana/pull/240",
        "NFC file of a label in NFD",
        yolo("images/\u00fc.jpg", "labels/u\u0308.txt"),
        HERE,
        {"images/\u00fc.jpg": [BOX]},
    ),
    Case(
        GH + "HumanSignal/label-studio/issues/6438",
        "two pictures of one name in two folders, COCO tells the folders",
        {"images/x/a.jpg": PICTURE, "images/y/a.jpg": PICTURE, "gt.json": coco("dirs/y/a.jpg")},
        JSON,
        {"dirs/y/a.jpg": [BOX]},
    ),
    Case(
        GH + "njvisionpower/Safety-Helmet-Wearing-Dataset/issues/22",
        "VOC pictures end in JPG, the XML says jpg",
        with_xml(voc("000377.jpg"), "JPEGImages/000377.JPG", "Annotations/000377.xml"),
        XML,
        {"JPEGImages/000377.JPG": [BOX]},
    ),
    Case(
        GH + "AlexeyAB/Yolo_mark/issues/48",
        "YOLO pictures in capital letters",
        yolo("img/A.JPG", "img/A.txt"),
        HERE,
        {"img/A.JPG": [BOX]},
    ),
    Case(
        GH + "AtharvaTaras/Dog-Breeds-Dataset/issues/1",
        "some pictures end in jpeg, others in jpg",
        {**yolo(), "images/b.jpeg": PICTURE, "labels/b.txt": YOLO},
        HERE,
        {**IN, "images/b.jpeg": [BOX]},
    ),
    Case(
        GH + "datitran/raccoon_dataset/pull/27",
        "VOC says a.png, the picture is a.jpg",
        with_xml(voc("a.png")),
        XML,
        VOC_FOUND,
        mended=1,
    ),
    Case(
        GH + "HumanSignal/labelImg/issues/92",
        "VOC filename without ending, as ImageNet has it",
        with_xml(voc("a")),
        XML,
        VOC_FOUND,
    ),
    Case(
        GH + "supervisely/supervisely/issues/21",
        "VOC filename is a folder",
        with_xml(voc("dataset")),
        XML,
        VOC_FOUND,
        mended=1,
    ),
    Case(
        GH + "joheras/CLoDSA/issues/78",
        "augmented XML: filename without ending, class with ß",
        with_xml(voc("a", "Stra\u00dfe", corners=(21.0, 21.0, 100.0, 90.0))),
        XML,
        VOC_FOUND,
        names=["Stra\u00dfe"],
    ),
    Case(
        GH + "microsoft/VoTT/issues/926",
        "VOC path names the folder of the annotations",
        with_xml(voc().replace("<size>", "<path>x-export/Annotations/a.jpg</path><size>")),
        XML,
        VOC_FOUND,
    ),
    Case(
        GH + "microsoft/VoTT/issues/760",
        "filename with `.mp4#t=0`, ymax lower than ymin",
        with_xml(
            voc("A.mp4#t=0.jpg", corners=(292, 468, 723, 292)), "JPEGImages/A.mp4#t=0.jpg", "Annotations/A.mp4#t=0.xml"
        ),
        XML,
        Error("Annotations/A.mp4#t=0.xml", "height"),
    ),
    Case(
        GH + "GoogleCloudPlatform/professional-services/pull/296",
        "XML of another name than its picture, which filename tells",
        with_xml(voc("a.jpg"), "JPEGImages/a.jpg", "Annotations/001.xml"),
        XML,
        {"JPEGImages/a.jpg": [BOX]},
    ),
    # hidden files
    Case(
        GH + "huggingface/autotrain-advanced/issues/264",
        ".ipynb_checkpoints among the images",
        {**yolo(), "images/.ipynb_checkpoints/a-checkpoint.jpg": PICTURE},
        HERE,
        IN,
    ),
    Case(
        GH + "open-edge-platform/anomalib/issues/865",
        ".ipynb_checkpoints among XML files",
        {**with_xml(voc()), "Annotations/.ipynb_checkpoints/a-checkpoint.xml": voc()},
        XML,
        VOC_FOUND,
    ),
    Case(
        GH + "matpalm/bnn/issues/17",
        ".DS_Store in every folder",
        {**yolo(), "images/.DS_Store": "x", "labels/.DS_Store": "x"},
        HERE,
        IN,
    ),
    Case(
        GH + "scverse/spatialdata-io/pull/260",
        "._a.jpg beside a.jpg, and in the labels",
        {**yolo(), "images/._a.jpg": "\0\5", "labels/._a.txt": "\0\5"},
        HERE,
        IN,
    ),
    Case(
        GH + "ultralytics/hub/issues/89",
        "__MACOSX with a second data.yaml",
        {**yolo(), "data.yaml": "names: [cat]", "__MACOSX/._data.yaml": "\0\5", "__MACOSX/images/._a.jpg": "\0\5"},
        HERE,
        IN,
    ),
    # labels without pictures, pictures without labels
    Case(
        GH + "cvat-ai/cvat/issues/1294",
        "frames of a video: labels with other names than the pictures",
        {**yolo(), "labels/frame_000005.txt": YOLO},
        HERE,
        Error("labels/frame_000005.txt", "image"),
    ),
    Case(GH + "cvat-ai/cvat/issues/8322", "all label files are empty", yolo(text=""), HERE, {"images/a.jpg": []}),
    Case(
        GH + "ultralytics/yolov5/issues/12239",
        "pictures without a label file",
        {**yolo(), "images/b.jpg": PICTURE},
        HERE,
        IN,
        skipped=1,
    ),
    Case(
        GH + "Deci-AI/super-gradients/pull/832",
        "labels without a picture, to be left out",
        {**yolo(), "labels/z.txt": YOLO},
        HERE,
        IN,
        skipped=1,
        on_bad="skip",
    ),
    Case(
        GH + "roboflow/supervision/issues/188",
        "COCO pictures without annotations",
        with_json({**coco(), "annotations": [], "images": [coco()["images"][0]]}),
        JSON,
        {"a.jpg": []},
    ),
    Case(
        GH + "AlexeyAB/darknet/issues/1548",
        "negatives without an XML file",
        {**with_xml(voc()), "JPEGImages/neg.jpg": PICTURE},
        XML,
        VOC_FOUND,
    ),
    Case(
        GH + "dusty-nv/jetson-inference/issues/674",
        "XML without an object",
        {
            **with_xml(voc()),
            "JPEGImages/b.jpg": PICTURE,
            "Annotations/b.xml": "<annotation><filename>b.jpg</filename></annotation>",
        },
        XML,
        {**VOC_FOUND, "JPEGImages/b.jpg": []},
    ),
    # YOLO
    Case(
        GH + "roboflow/supervision/pull/2580",
        "class ids as NumPy writes them: 0.000e+00",
        yolo(text="0.000000000000000000e+00 3.0e-01 3.4375e-01 4.0e-01 4.375e-01\n"),
        HERE,
        IN,
    ),
    Case(GH + "Tianxiaomo/pytorch-YOLOv4/pull/199", "class id 0.0", yolo(text="0.0 0.3 0.34375 0.4 0.4375"), HERE, IN),
    Case(
        GH + "Cartucho/mAP/issues/116",
        "class names in the place of ids",
        yolo(text="Type_III 0.3 0.34 0.4 0.43"),
        HERE,
        Error("labels/a.txt:1", "class id"),
    ),
    Case(
        GH + "ultralytics/ultralytics/issues/1502",
        "polygons and boxes mixed",
        yolo(text=YOLO + "0 0.1 0.125 0.5 0.125 0.5 0.5625 0.1 0.5625\n"),
        HERE,
        {"images/a.jpg": [BOX, BOX]},
    ),
    Case(
        GH + "cvat-ai/cvat/issues/9430",
        "oriented boxes: four corners",
        yolo(text="0 0.1 0.125 0.5 0.125 0.5 0.5625 0.1 0.5625\n"),
        HERE,
        IN,
    ),
    Case(
        GH + "SkalskiP/make-sense/issues/171",
        "a box over the rim by 0.0000005",
        yolo(text="0 0.976042 0.705556 0.047917 0.096296\n"),
        HERE,
        {"images/a.jpg": [[190.4167, 105.1853, 200, 120.5926]]},
    ),
    Case(
        GH + "ultralytics/yolov5/issues/10632",
        "a polygon's point at 1.0021",
        yolo(text="0 0.5 0.5 1.0021 0.5 0.75 0.75\n"),
        HERE,
        {"images/a.jpg": [[100, 80, 200, 120]]},
        mended=1,
    ),
    Case(
        GH + "ultralytics/yolov3/issues/569",
        "pixels in the place of shares",
        yolo(text="0 60 55 80 70\n"),
        HERE,
        Error("labels/a.txt:1", "not pixels"),
    ),
    Case(
        GH + "microsoft/VoTT/issues/125",
        "Infinity in the place of numbers",
        yolo(text="0 Infinity Infinity Infinity Infinity\n"),
        HERE,
        Error("labels/a.txt:1", "Infinity"),
    ),
    Case(
        GH + "ultralytics/yolov5/pull/5210",
        "the same line three times",
        yolo(text=YOLO * 3),
        HERE,
        {"images/a.jpg": [BOX] * 3},
    ),
    Case(
        GH + "voxel51/fiftyone-plugins/issues/203",
        "dataset.yaml beside train, valid and test",
        {
            "train/images/a.jpg": PICTURE,
            "train/labels/a.txt": YOLO,
            "valid/images/b.jpg": PICTURE,
            "valid/labels/b.txt": YOLO,
            "dataset.yaml": "train: ./train/images\nval: ./valid/images\nnc: 1\nnames: ['Cipro 500']",
        },
        HERE,
        {"train/images/a.jpg": [BOX], "valid/images/b.jpg": [BOX]},
        names=["Cipro 500"],
    ),
    Case(
        GH + "ultralytics/ultralytics/issues/11852",
        "paths of data.yaml begin with the set's own folder",
        {
            "Plates-4/train/images/a.jpg": PICTURE,
            "Plates-4/train/labels/a.txt": YOLO,
            "Plates-4/data.yaml": "names:\n- Plate\nnc: 1\nroboflow:\n  version: 4\ntrain: Plates-4/train/images\n",
        },
        ("Plates-4", None),
        {"train/images/a.jpg": [BOX]},
        names=["Plate"],
    ),
    Case(
        GH + "ultralytics/ultralytics/issues/22101",
        "path of another machine, and a stray quote in data.yaml",
        {
            "d/images/train/a.jpg": PICTURE,
            "d/labels/train/a.txt": YOLO,
            "d/data.yaml": "path: 'C:/Users/x/datasets'\ntrain: ./d/images/train'\nnames:\n  0: one\n",
        },
        HERE,
        {"d/images/train/a.jpg": [BOX]},
        names=["one"],
    ),
    Case(
        GH + "cvat-ai/cvat/issues/5977",
        "CVAT YOLO 1.1: obj_train_data, obj.names, obj.data, train.txt",
        {
            "obj_train_data/a.jpg": PICTURE,
            "obj_train_data/a.txt": YOLO,
            "obj.names": "cat\n",
            "train.txt": "data/obj_train_data/a.jpg\n",
            "obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n",
        },
        HERE,
        {"obj_train_data/a.jpg": [BOX]},
    ),
    Case(
        GH + "microsoft/VoTT/issues/133",
        "a train.txt without line ends between its paths",
        {**yolo(), "train.txt": "data/a.jpgdata/b.jpg", "obj.data": "train = train.txt"},
        HERE,
        IN,
    ),
    Case(
        GH + "sowson/darknet/issues/24",
        "darknet's VOC: JPEGImages and labels",
        yolo("VOC2007/JPEGImages/a.jpg", "VOC2007/labels/a.txt"),
        HERE,
        {"VOC2007/JPEGImages/a.jpg": [BOX]},
    ),
    Case(
        GH + "HumanSignal/labelImg/issues/364",
        "predefined_classes.txt with a byte order mark",
        {"a.jpg": PICTURE, "a.txt": YOLO, "predefined_classes.txt": "\ufeff\u732b\n"},
        HERE,
        ONE,
        names=["\u732b"],
    ),
    # VOC
    Case(GH + "dmlc/gluon-cv/pull/923", "no difficult tag", with_xml(voc()), XML, VOC_FOUND),
    Case(
        GH + "Megvii-BaseDetection/YOLOX/issues/1162",
        "difficult is Unspecified",
        with_xml(voc(more="<difficult>Unspecified</difficult>")),
        XML,
        VOC_FOUND,
    ),
    Case(
        GH + "Megvii-BaseDetection/YOLOX/issues/248",
        "coordinates with a point: 479.0",
        with_xml(voc(corners=("21.0", "21.0", "100.0", "90.0"))),
        XML,
        VOC_FOUND,
    ),
    Case(
        GH + "PaddleCV-SIG/PaddleLabel/issues/81",
        "coordinates with many digits",
        with_xml(voc(corners=(21, 21, "99.6576232910156", 90))),
        XML,
        {"JPEGImages/a.jpg": [[20, 20, 99.65762, 90]]},
    ),
    Case(
        GH + "microsoft/VoTT/issues/350",
        "a box far outside its image",
        with_xml(voc(corners=(424, 21, 480, 90))),
        XML,
        Error("", "usable"),
    ),
    Case(
        GH + "CVHub520/X-AnyLabeling/issues/1195",
        "a blank after the class name",
        with_xml(voc(name="ng ")),
        XML,
        VOC_FOUND,
        names=["ng"],
    ),
    Case(
        GH + "dmlc/gluon-cv/issues/587",
        "a class that PASCAL does not have",
        with_xml(voc(name="AB")),
        XML,
        VOC_FOUND,
        names=["AB"],
    ),
    Case(
        GH + "rafaelpadilla/review_object_detection_metrics/issues/48",
        "difficult objects, which must not count",
        {
            **with_xml(voc(more="<difficult>1</difficult>")),
            "JPEGImages/b.jpg": PICTURE,
            "Annotations/b.xml": voc("b.jpg"),
        },
        XML,
        {"JPEGImages/a.jpg": [], "JPEGImages/b.jpg": [BOX]},
    ),
    # COCO
    Case(
        GH + "cocodataset/cocoapi/issues/373",
        "ids that are texts",
        with_json(coco("a.jpg", {"image_id": "img-7"}, id="img-7")),
        JSON,
        ONE,
    ),
    Case(
        GH + "dbolya/yolact/issues/156",
        'image_id "0", the image\'s id 0',
        with_json(coco("a.jpg", {"image_id": "0"}, id=0)),
        JSON,
        ONE,
    ),
    Case(
        GH + "cvat-ai/cvat/issues/298",
        'the image\'s id "324158", image_id 324158',
        with_json(coco("a.jpg", {"image_id": 324158}, id="324158")),
        JSON,
        ONE,
    ),
    Case(
        GH + "cvat-ai/cvat/issues/679",
        "categories counted from 0, annotation ids not unique",
        with_json(
            coco(
                "a.jpg",
                {"id": 1, "category_id": 0},
                {"id": 1, "category_id": 0, "bbox": [5, 5, 20, 20]},
                categories=[{"id": 0, "name": "cat"}],
            )
        ),
        JSON,
        {"a.jpg": [BOX, [5, 5, 25, 25]]},
    ),
    Case(
        GH + "open-edge-platform/datumaro/issues/1160",
        "Roboflow's categories: fish under two ids",
        with_json(
            coco(
                categories=[
                    {"id": 0, "name": "fish", "supercategory": "none"},
                    {"id": 1, "name": "fish", "supercategory": "fish"},
                ]
            )
        ),
        JSON,
        ONE,
        names=["fish"],
    ),
    Case(
        GH + "roboflow/supervision/issues/205",
        "segmentation without the list around it, no bbox",
        with_json(coco("a.jpg", {"bbox": None, "segmentation": [20, 20, 100, 20, 100, 90, 20, 90]})),
        JSON,
        ONE,
    ),
    Case(
        GH + "cvat-ai/cvat/issues/8855",
        "polygons without a bbox",
        with_json(coco("a.jpg", {"bbox": [], "segmentation": [[20, 20, 100, 55, 50, 90]]})),
        JSON,
        ONE,
    ),
    Case(
        GH + "facebookresearch/detectron2/issues/5027",
        "all annotations are crowds",
        with_json(coco("a.jpg", {"iscrowd": 1})),
        JSON,
        {"a.jpg": []},
    ),
    Case(
        GH + "facebookresearch/detectron2/issues/2415",
        "a crowd beside an object",
        with_json(
            coco(
                "a.jpg",
                {},
                {"iscrowd": 1, "bbox": [0, 0, 200, 160], "segmentation": {"counts": [3, 4], "size": [160, 200]}},
            )
        ),
        JSON,
        ONE,
    ),
    Case(
        GH + "DLR-RM/BlenderProc/issues/34",
        "a bbox without area beside one that has some",
        with_json(coco("a.jpg", {}, {"bbox": [5, 5, 0, 0], "segmentation": []})),
        JSON,
        ONE,
        mended=1,
    ),
    Case(
        GH + "MicrosoftDocs/azure-docs/issues/60899",
        "boxes in shares of the image",
        with_json(coco("a.jpg", {"bbox": [0.1, 0.125, 0.4, 0.4375]})),
        JSON,
        ONE,
    ),
    Case(
        GH + "laclouis5/globox/pull/13",
        "file names as ids",
        with_json(coco("a.jpg", {"image_id": "a.jpg"}, id="a.jpg")),
        JSON,
        ONE,
    ),
    # Ground Truth
    Case(
        GH + "aws/amazon-sagemaker-examples/issues/1682",
        "output of a video job as labels",
        {
            "a.jpg": PICTURE,
            "output.manifest": json.dumps(
                {
                    "source-ref": "s3://b/seq.json",
                    "Car-ref": "s3://b/SeqLabel.json",
                    "Car-ref-metadata": {"class-map": {"0": "car"}, "type": "groundtruth/video-object-detection"},
                }
            ),
        },
        (".", "output.manifest"),
        Error("output.manifest:1", "prepare convert"),
    ),
    Case(
        GH + "aws/amazon-sagemaker-examples/issues/4056",
        "a manifest with source-refs of another bucket's folders",
        {
            "images/a.jpg": PICTURE,
            "output.manifest": json.dumps(
                {
                    "source-ref": "s3://other/x/y/a.jpg",
                    "bb": {
                        "image_size": [{"width": 200, "height": 160, "depth": 3}],
                        "annotations": [{"class_id": 0, "left": 20, "top": 20, "width": 80, "height": 70}],
                    },
                    "bb-metadata": {
                        "class-map": {"0": "car"},
                        "type": "groundtruth/object-detection",
                        "creation-date": "2023-05-23",
                    },
                }
            ),
        },
        ("images", "output.manifest"),
        {"s3://other/x/y/a.jpg": [BOX]},
        names=["car"],
    ),
]


def table() -> str:
    """The table of docs/field-cases.md."""
    rows = ["| source | input | result |", "|---|---|---|"]
    for case in CASES:
        place = case.source[len(GH) :].replace("/issues/", "#").replace("/pull/", "#")
        rows.append(f"| [{place}]({case.source}) | {case.what} | {case.result} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
