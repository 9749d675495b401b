"""Methods that people ask for and that are not offered, each with the reason."""

NOT_OFFERED: dict[str, str] = {
    "localdrop": "no code was published, and the bound that it minimises could not be recovered from what is public",
    "autodropout": "its patterns come from a reinforcement-learning search over many trainings of the same network",
    "sls": "structural label smoothing (arXiv:2001.01900) needs an estimate of the local Bayes error whose exact "
    "objective could not be recovered; label_smoothing and self_distillation are the nearest",
    "per_sample_smoothing": "no published definition could be confirmed (see sls); self_distillation gives each image "
    "a target of its own",
    "puzzlemix": "it needs a graph-cut solver in C++ for every pair of images; cutmix is the nearest",
    "cutblur": "it is for super-resolution, where input and target are images",
    "pba": "its schedules are data files of another project, which are not part of torchvision; auto_augment and "
    "rand_augment are the nearest",
    "fast_auto_augment": "its policies are data files of another project, which are not part of torchvision; "
    "auto_augment and rand_augment are the nearest",
}
"""Name and reason."""
