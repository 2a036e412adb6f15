"""How the emulated services behave."""


class Settings:
    """Behaviour that may be changed at any time by setting the attribute; seconds throughout.

    `speed` divides how long runs take. `run_seconds` is how long they take before that: a number,
    a (lowest, highest) pair to draw from, or None for a realistic spread around seven minutes.
    `latency` is what each request in memory takes. `create_conflict_window` is how long a created run counts
    as being processed: until then another creation for its iModel is a 409, afterwards a 303.
    `output_visibility_delay` is how long the output of a run created from now on stays unreadable after its
    end.
    `download_lifetime` is how long a download address is good for. `accept_plain_file_ids` says whether
    Storage knows an output by the id its run names, or only by the composite one.
    `user_authorized` is the user's consent to background work; without it a run of a `User`
    connection fails. (Of synchronizations the service says so; that exports are accepted and then
    fail in the same way is assumed.)
    `forbid_repeat_runs` says that nobody wants the same export of a connection twice, so that starting
    it again after a success is a sin.
    `max_put_bytes` is how many bytes may be put into the blob store at once.
    `storage_page_size` and `synchronization_page_size` are for lists without `$top`, as `page_size`
    is in the Export API.
    """

    def __init__(
        self,
        *,
        speed: float = 1.0,
        run_seconds: float | tuple[float, float] | None = None,
        token_lifetime: float = 3600.0,
        page_size: int = 50,
    ) -> None:
        if speed <= 0:
            raise ValueError("speed must be positive")
        if not 1 <= page_size <= 1000:
            raise ValueError("page_size must be from 1 to 1000")
        self.speed = speed
        self.run_seconds = run_seconds
        self.token_lifetime = token_lifetime
        self.page_size = page_size
        self.latency = 0.01
        self.create_conflict_window = 0.0
        self.output_visibility_delay = 0.0
        self.download_lifetime = 3600.0
        self.accept_plain_file_ids = True
        self.user_authorized = True
        self.forbid_repeat_runs = False
        self.max_put_bytes = 256 * 1024**2
        self.storage_page_size = 100
        self.synchronization_page_size = 100
