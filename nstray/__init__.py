"""nstray: stylised datasets by the optimisation of Gatys, Ecker and Bethge, on Ray.

The map. Imports go downwards, in the layers cli, commands, cluster | reports, worker, manifest,
output | sources, images, config, engine | storage, errors, system, text.

    nstray/
      __init__.py           this map
      __main__.py           the entry point: a safe process, then cli
      cli.py                click commands: parse, call commands/, print
      config.py             JobConfig: every setting, validated once; its fingerprint
      errors.py             the exception tree and the closed list of error codes
      text.py               redaction, log_event, durations, counts, did_you_mean
      commands/             one file per word a user types, and what they share
        stylise.py          pictures at once, in this process
        stylise_command.py  its options on the command line
        stylise_plan.py     which pictures, and where they go
        stylise_engine.py   weights, device and images, as a worker has them
        stylise_display.py  the bar, the loss as a curve, or lines in a log
        stylise_eta.py      the time to go, by pixels
        stylise_preview.py  the picture so far in a file
        stylise_sheet.py    the sheet of a grid
        run.py              a checked job to its exit code
        retry.py            error rows made again
        pairing.py          sources of pictures in place of a manifest
        pairs_added.py      what has come to them since
        plan.py             what a run would do
        status.py           where a job stands
        status_command.py   the options of status, and what it prints
        status_lines.py     where a job stands as lines for a person
        next_command.py     what a person types next
        watch.py            the status again and again until the end
        verify.py           every part against footer, record and manifest
        verify_report.py    what it found, and what to do
        export.py           the options of an export to its counts
        export_command.py   those options on the command line
        report_commands.py  sheet, and its like, on the command line
        report.py           one output as a page
        compare.py          two outputs as a page, pair by pair
        sheet.py            a labelled sheet of pictures
        demo.py             the example's pictures, a job, a sheet
        weights.py          normalise and convert a network's weights
        distil.py           a narrow network trained, with checkpoints
        network_files.py    files of weights that commands read and write
        decoded_pictures.py pictures of a folder, one after the other
        command_groups.py   the click groups `manifest` and `weights`
        options.py          settings as options of the command line
        config_file.py      settings of a YAML file, read within bounds
        printing.py         lines, records and tables on stdout
        prepare.py          words to a checked job and its record
        preflight.py        the first images, before any worker starts
        ray_job.py          where no output goes from inside a Ray job
        load_weights.py     the weights, read in a process of their own
        moved.py            what a job names that may be elsewhere now
        cost.py             what a pair costs by its settings; what a run cost
        shard_size.py       pairs of a part, chosen when a job begins
        probe.py            a few pairs run and timed
        forecast.py         hours, bytes and money from what the probe timed
        guess.py            how long a run may take, before any of it is measured
        demo_pictures/      what `nstray demo` copies
      cluster/              the only importer of ray
        driver.py           hands out shards until all are committed
        windows.py          windows opened in order, closed when all parts are there
        isolated_shards.py  a shard run pair by pair
        failures.py         what follows when a shard fails
        start_failures.py   what follows when a worker does not start
        worker_pool.py      as many workers as fit; polled and replaced
        worker_handle.py    a worker as the driver sees it
        polling.py          how often workers are polled, and what they add up to
        actor.py            the Ray actor around a Worker
        scheduling.py       which shard goes where; whom to blame; no Ray
        resources.py        how many workers fit, and on what
        ray_address.py      what RAY_ADDRESS may be
        ray_session.py      connecting to Ray; every private Ray call
        ray_running.py      Ray from its start to its end, undisturbed by signals
        own_cluster.py      the cluster that a run starts: its folder and processes
        ray_watch.py        ends a run whose Ray has died
        resume.py           what a window still needs
        progress.py         the bar, or a line a minute
        eta.py              the time to go, and who is behind
        reporter.py         metrics, live.json and a log line per shard
        metrics.py          counters and gauges for Prometheus
        probe_pool.py       workers that write nothing
      exports/              formats people train from
        options.py          what is asked for, checked
        source.py           committed parts as units of work
        plan.py             columns read and kept, and where; for every process
        labels.py           joined tables, excluded ids
        selection.py        which rows, with their splits and classes
        pictures.py         pictures made smaller or encoded anew; contents fitted
        originals.py        contents among the stylised pictures
        keys.py             the order of rows, and their buckets
        runs.py             sorted runs in the scratch folder
        packing.py          buckets to files
        worker.py           a unit of the first pass, a file of the second
        pool.py             worker processes, without Ray
        progress.py         the bar, or a line a minute
        target.py           the folder that is written: whose it is, what is done
        export.py           both passes from beginning to end
        names.py            names of folders and files
        files.py            plain files with metadata.jsonl
        imagefolder.py      class folders
        webdataset.py       tar files of samples
        parquet.py          packed Parquet
        json_values.py      rows as JSON
        card.py             the card of an export
      reports/              what people look at
        report_data.py      what a report shows, as plain data
        survey.py           windows, parts and indexes, without a row
        sampling.py         rows by style, label and status
        pictures.py         pictures and originals, made small
        thumbnails.py       small JPEGs that fit into one page
        statistics.py       distributions, curves and ranks by style
        counts.py           rows by value, by error code, by time
        gather.py           all that a report shows
        compared.py         all that a comparison of two outputs shows
        page.py             a report and a comparison as HTML (jinja2)
        page_pictures.py    pictures in a page, within its size
        page_text.py        numbers and sentences of a page
        charts.py           where the marks of a page's charts stand
        html/               templates, style and script of the pages
        drawing.py          cells to PNG or PDF (matplotlib)
        fonts.py            fonts for labels in any script
        cells.py            rows as labelled cells
        contact_sheet.py    contents x styles as a grid
        figure.py           rows and columns from carried columns
      worker/               one shard, without Ray
        worker.py           fetch, decode, optimise, encode, commit
        inputs.py           a pair's images and masks, or its error
        engine_pairs.py     loaded pairs for the engine, its outcomes
        requests.py         which images a pair needs, and at what size
        rows.py             outcomes as rows, rows as a part
        previous_rows.py    rows that a retry carries over
        style_cache.py      style images shared on one machine
        image_cache.py      decoded images used last
        timing.py           seconds by phase
        messages.py         what driver and workers tell each other
        batch_progress.py   the stage of a batch, and its share of the work
      manifest/             what a pair is; reading, checking, building, cutting
        pair.py             Pair, and ManifestInfo: what a check found
        manifest.py         a manifest, checked and read as tables
        files.py            the files, and their rows as raw batches
        raw_batches.py      a file, and a batch of its rows
        text_input.py       text files as UTF-8, whatever their encoding
        csv_dialect.py      how a CSV file is written
        csv_records.py      records, cells and wrong quotes
        csv_quotes.py       CSV with right quotes, as Arrow reads it
        csv_rows.py         CSV as raw batches
        csv_types.py        CSV text in the types that a job names
        parquet_files.py    Parquet in batches bounded in bytes
        json_lines.py       JSON Lines as raw batches
        canonical.py        raw batches to canonical columns
        column_names.py     which columns there may be
        text_columns.py     text and lists of whatever type the file has
        arrow_columns.py    whole Arrow columns as flags, lists and text
        references.py       paths and URIs made absolute
        places.py           where contents and styles lie in archives
        overrides.py        settings that a row sets for itself
        carried_types.py    types of carried columns
        carried_rows.py     carried columns that workers read
        column_metadata.py  field metadata and Hugging Face features
        pair_ids.py         given and default ids
        duplicates.py       ids that appear twice, in bounded memory
        problems.py         what is wrong with rows
        arrow_errors.py     what Arrow's messages say
        rows_digest.py      a digest of rows, whatever files hold them
        cached_check.py     a check kept in the job's record
        shards.py           rows to windows, windows to shards
        build.py            a manifest of two sources
        build_listing.py    pictures listed into a temporary file
        build_names.py      what ids call a picture
        build_references.py pictures as a manifest names them
        build_labels.py     where labels and splits come from
        build_columns.py    names and metadata of carried columns
        build_draw.py       which contents, and which styles for each
        build_shapes.py     widths and heights of loose pictures
        build_rows.py       contents and styles paired
        build_write.py      the rows as Parquet, CSV or JSON Lines
      output/               the dataset on storage
        schema.py           the one list of columns
        part_file.py        rows to the bytes of a part; its footer
        parts.py            the put that commits a part
        layout.py           names and numbers of parts
        paths.py            where an output's files are
        folder.py           Output: one object for each kind of file
        job_record.py       job.json: whose output it is
        records.py          records as plain data, without storage
        record_changes.py   what differs between two records
        indexes.py          what each window adds up to
        histograms.py       the same value by value, in few bins
        derived_files.py    the summary and the estimate
        live_status.py      live.json: what a run is doing
        latest.py           the last pictures as plain files
        data_card.py        the data card
        reader.py           committed parts, row by row
      sources/              where a picture's bytes are
        reference.py        members of archives, and places in them
        read.py             the bytes of whatever a reference names
        loose.py            files that are a picture each
        tar.py              members of tars, and their index
        parquet.py          cells of Parquet, by row group
        parquet_pages.py    page headers, checked before Arrow reads them
        arrow.py            cells of Arrow files, by record batch
        cells.py            columns of pictures, and one cell
        ranged_file.py      an archive's headers, read ahead
        caches.py           what was read and is used again
        listing/            what lies at a path
          detect.py         which kind of source lies at a path
          pictures.py       what a listing yields
          ahead.py          archives listed by threads, in order
          folders.py        loose pictures
          folder_pictures.py a folder's pictures, and what was left out
          tars.py           tars, with WebDataset's keys
          sidecars.py       classes, texts and JSON beside a picture
          parquet_files.py  Parquet files with a column of pictures
          arrow_files.py    Arrow files, as save_to_disk writes them
          image_column.py   which column holds the pictures
          cell_pictures.py  what the sources of cells have in common
      images/               the only importer of Pillow
        decode.py           files to pixels
        shape.py            a picture's shape from its first bytes
        encode.py           pixels to files
        resize.py           size rules, and masks that follow
        icc.py              ICC profiles applied
        containers.py       what decides the pixels of a file is kept
        sniff.py            what a file looks like that is no picture
        readers.py          Pillow's readers by format
      engine/               pure torch, usable alone
        api.py              stylize: the function a notebook calls
        stylizer.py         one batch: prepare, optimise in stages, results
        batching.py         many pairs in batches; out of memory; bisection
        pair.py             Pair and Result
        progress.py         where a batch stands, for callbacks
        targets.py          style targets and their cache
        stages.py           coarse stages
        fine_style.py       fine-scale statistics of another style
        color.py            keeping the content's colours
        settings.py         settings of the optimisation and their rules
        presets.py          papers' and programs' settings
        losses/
          gatys.py          the paper's content, style and pixel terms
          style_statistics.py  Gram matrix and two others
          objective.py      the sum, and its gradient
          guides.py         where a style applies
          tiles.py          a picture evaluated in tiles
        network/
          vgg.py            VGG-19 up to the deepest tap
          torchvision_vgg.py  torchvision, without a folder of its own
          weights.py        the weights, and their conventions
          weight_files.py   files of weights, checked and written
          key_names.py      what programs call the convolutions
          random_weights.py  weights that need no file
          normalise.py      mean activations of 1
          distil.py         a narrow network that imitates a wide one
          recipe.py         how it is trained, without torch
          fidelity.py       how well it does
          winograd.py       deep convolutions on a CPU
          ops.py            gradients cheaper than torch's own
        optim/
          minimise.py       one optimisation, L-BFGS or Adam
          muon.py           the training of filters
          lbfgs.py          L-BFGS over a batch of problems
          history.py        its (s, y) pairs
          scaling.py        its initial inverse Hessian
          box_constraint.py bounds on the variables
          dct.py            cosine coefficients and back
      storage/              local files and stores behind one interface
        local.py            files
        s3.py               objects: reads, conditional puts
        s3_ranges.py        objects by range
        seekable.py         files of known size to seek in
        s3_client.py        the client and its timeouts
        s3_listing.py       listings
        s3_errors.py        botocore's errors as nstray's
        s3_digests.py       bytes compared with the store's digests
        botocore_internals.py  what is private in botocore and urllib3
        remote.py           objects of other stores, read through fsspec
        remote_errors.py    what fsspec raises as nstray's errors
        schemes.py          which other stores there are, and may be read
        uri.py              what a URI is
        backoff.py          tries again while a store is away
      system/               the process and its machine
        streams.py          stdout and stderr that outlive their readers
        stop_signals.py     SIGTERM, SIGINT and SIGHUP from first to last
        terminal.py         what stderr can show
        torch_threads.py    how torch's threads wait
        surroundings.py     what the machine lacks, on one line
        gpus.py             whether it has a GPU, without torch
        owned_folders.py    temporary folders; those of dead processes removed

Dive into the code, six files in order: manifest/pair.py, manifest/shards.py, cluster/driver.py,
worker/worker.py, engine/stylizer.py, output/parts.py. CONTRIBUTING.md says how to add something.
"""

from __future__ import annotations  # nothing else: see nstray/__main__.py


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("nstray")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
