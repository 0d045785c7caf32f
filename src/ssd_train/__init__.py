"""ssd_train: from a labelling job to a working object detector.

The map of the house. Imports go down: from cli to launch, deploy, training, view, data and model, and what stands
beside them. Within a package they run in no circle, and `data/` and `model/` never import each other. `tests/house.py`
holds these floors as data; `tests/test_house.py` fails on an import that goes up, across or around.

    __main__.py         python -m ssd_train
    cli/                the doors
        train, evaluate, predict, demo, verify, check, prepare, export, convert, serve, launch    one file a command
        main.py             the front door, which finds the command
        console.py          how flags are read, and how long work tells where it is
        verification.py     the checks of verify: trainings on drawn data, and what has to be equal
        flags.py, pictures.py, places.py    what commands share: flags, pictures that are named, s3:// paths
        steps/              the steps of prepare
            augment, convert, frames, grayscale, join, keep, manifest, relabel, sheet, split    one file a step
            common              what they share
        aws/                what launch does beside training
            deploy, describe, invoke    one file a way (common: what they share)
    config.py           TrainConfig: every hyperparameter once, with unit, limits, default (setting_values:
                        texts as values, held against each other, builtin: what settings mean to the built-in algorithm,
                        recipes: image size and epochs)
    environment.py      Environment: where we run: folders, hosts, devices, memory (cgroups: limits of a container)
    errors.py           SsdTrainError and its kinds
    framework.py        the one door to MXNet and GluonCV: version check and fix-ups, once (cpus: how many it may use)
    storage.py          files that appear whole or not at all
    published.py        folders that do, with checksums
    locks.py            a folder held by one run at a time
    secrecy.py          keys and passwords kept out of what is printed
    progress.py         how long work tells where it is, whoever listens
    archives.py         model.tar.gz unpacked without trust
    s3.py               the one door to boto3: objects asked for, listed, read, written; errors in words
    remote.py           local copies of what lies on S3, and results put there
    metric_lines.py     the log lines and, beside them, the regexes that SageMaker reads them with
    launch/             the program sent to SageMaker, and requests that say what to do with it
        job.py              Job, Channel: machines, rights and inputs of a training job
        images.py           addresses of AWS's MXNet containers
        requests.py         the training request, built from settings; tuning.py: ranges to search
        serving.py          requests for endpoints, batch transform jobs and answers
        source.py           the program's archive, and a model's with the program that serves it
        amazon.py           the connection to AWS: what is sent, and refusals in words
        watch.py            a job's log and metrics
        sdk2.py, sdk3.py    the same job by the SageMaker SDK
    data/               records -> dataset -> transforms -> batches
        boxes.py            geometry of xyxy boxes; the one law of coordinates
        records.py          Record, Detections, ClassNames: the words everyone speaks
        encoded.py          encoded images as bytes: what they are, how they are turned
        images.py           bytes <-> RGB array: decode (orientation, limits), encode
        pixels.py           which library decodes, resizes and turns
            opencv_pixels, pillow_pixels    the two, with the same functions
        formats/            labels, read and where it can be written
            ground_truth, image_json, recordio, coco, voc, yolo, video    one file a format (ground_truth_survey: its
                                    jobs and classes, yolo_names: its classes, framing: bytes of RecordIO)
            fields, gather, pairing, jsonl, box_label, detection_label, class_list, label_folder, pipe    what is shared
        labels.py           the door for labels of any format, found by looking (label_formats: by what)
        file_names.py       endings of images and labels, hidden files, what a name in labels can mean
        sources.py          where encoded images come from: a folder, copies fetched for it, memory
        split.py            which records are held out (official_sets: those that the data names itself)
        artwork.py          what drawn pictures are made of: marks and backgrounds
        drawn.py            drawn data sets with known boxes: the demo's pictures
        predictions.py      answers of a detector as JSON Lines (prediction_formats: as COCO results, CSV, .out files)
        prepare/            the steps before training, on lines of manifests and on folders of pictures
            lines.py, classes.py    a line, read and written without losing what it holds; its classes
            join, keep, relabel, split, listing    manifests -> manifests
            convert                 labels of one format -> another
            pictures.py             folders of pictures, worked on in parallel, taken up again
            grayscale, augment, augment_images, frames    pictures -> pictures
        check.py            what is wrong with a data set, before epoch 0
            check_codes.py          the fixed list of what can be found
            check_labels, check_images, check_duplicates, check_statistics    its parts
            anchor_fit.py, damage.py    boxes that no anchor overlaps; files that decoders should not trust
        threads.py          work done by threads, in order
        patience.py         work that may never end, done within a time limit
        setbacks.py         images that go bad during a run, met as --on_bad_data says
        fifo.py, spill.py   FIFOs read with a time limit; bytes that do not fit into memory
        channel.py          a channel in Pipe mode read once: labels, and images while they fit on the disk
        stream.py           one too large to keep: a FIFO for each epoch, shuffled (stream_loader: its batches)
        dataset.py          DetectionDataset over records and an image source
        gluon.py            the data set as Gluon's and GluonCV's own code wants it
        augment.py          the random choices of an augmentation policy, by name
        transforms.py       (image, boxes) -> (image, boxes): operations, TrainTransform, EvalTransform
        batches.py          TrainBatch, EvalBatch, EpochSampler, loaders
    model/              image -> anchors, class scores, boxes
        anchors.py          anchor boxes from (network, image size); numpy only
        pixels.py           mean and deviation of the pixels that networks expect
        net.py              build_net: an SSD with our class head (frozen: BatchNorm layers that are not trained)
        params_file.py      files of arrays looked through before MXNet reads them
        pretrained.py       arrays of a weights file put into a net, and counted
        zoo.py              weights of GluonCV's model zoo, asked for with a time limit
        targets.py          TargetEncoder: boxes matched to anchors
        loss.py             DetectionLoss: named parts, (sum, count)
        graphs.py           the net as hybridized graphs: one to train, one to detect (fused: layers in their fastest
                            form)
    training/           batches + net -> weights
        devices.py          contexts, and a batch split over them
        cluster.py          Cluster: the hosts that train together (meeting: how they find each other, exchange: how
                            their gradients meet, peers: what else they tell each other, watchdog: that all end when
                            one dies, hand_over: one start)
        scores.py           Scores: what an evaluation found, as JSON and as lines
        matching.py         which detections hit a labelled box, by the rules of VOC and COCO
        average_precision.py  from the ranks of the hits to a figure; the best F1
        metrics.py          RunningMean, MeanAveragePrecision (VOC07, VOC area, COCO); numpy only
        schedule.py         learning rate by real epochs; early stopping
        anchor_choice.py    anchor sizes chosen by the boxes of a data set
        averaging.py        a moving average of the weights, in a net of its own
        array_file.py       arrays in a file; a failing disk is told as one
        optimizer_state.py  the optimizer's arrays on disk, without a pickle
        saved_model.py      SavedModel: a model folder that is whole at every moment
        config_file.py      its config.json, read without MXNet
        tally.py            what an epoch has come to, after any step
        checkpoint.py       TrainState, Checkpoints: written so that a kill loses nothing
        keeper.py           when they are written, and how a run is stopped
        fingerprint.py      what a resumed run must share with the one before
        circumstances.py    what a resumed run may change and is told of: threads, devices, versions, epochs
        sides.py            training and validation data, in the same classes (pipes: those in Pipe mode)
        intake.py           both sides looked at, counted and told about; the settings they decide
        deployment.py       deployment files kept those of the best model
        learner.py          Learner: net, optimizer and devices; a step (masked: steps that devices leave out by
                            themselves, loss_scale: for 16 bits)
        engine.py           train_one_epoch, evaluate
        telling.py          what a run says of its epochs
        job.py              Job: labels, loaders, net and learner put together
        run.py              train(config, environment): the hall where all meets
    deploy/             weights -> service
        detector.py         Detector.load(folder, archive or .onnx): image -> Detections
        engines/            gluon, symbol, onnx, openvino: one file a way to run a net
        description.py      what an exported model says of itself
        exported.py         a folder of MXNet's deployment files: its names, whose it is, and whether it is whole
        symbol_reader.py    a symbol read without trust: only operators that a detector has
        symbol_file.py      a model written as those files
        onnx_file.py        a model written as an ONNX file (onnx_graph: its layers, onnx_head: decoding, suppression)
        onnx_check.py       an ONNX file read without trust: nothing of it in other files
        quantize.py         convolutions in 8 bits
        agreement.py        whether two ways to run a network say the same
        artifact.py         the deployment files in a model folder, kept those of its model
        served_code.py      code/ in a model folder, with which its archive serves as it is
        export.py           a model in other forms, each proven before it takes its place (exportable: which models)
        convert.py          archives of the built-in algorithm made usable (builtin_network, onnx_builtin: its network)
        batch_transform.py  a file of answers for each picture, as batch transform jobs leave them
        scoring.py          a file of answers, or a Detector, against labels
        serve.py            model_fn, transform_fn: requests and answers of SageMaker's endpoints
        requests.py, answers.py    bodies of requests -> pictures; detections -> bodies of answers
        server.py           the light server: an ASGI application (server_work: its threads, server_metrics,
                            server_page: what they show)
        server_run.py       the one door to uvicorn
    view/               for human eyes
        draw.py             boxes on a picture, pictures on a sheet (canvas, fonts, palette: what it draws with)
        report_data.py      ReportData: what a report tells
        scenes.py, worst.py    truth and detections matched and drawn together; the worst mistakes
        report.py           one self-contained HTML page (sections, galleries, charts, markup, style: its parts)
        sheet.py            labelled images on one picture, to look at
        pages.py            a PDF of overlays, three by five a page (pdf: the file format)
"""

__version__ = "0.1.0"
