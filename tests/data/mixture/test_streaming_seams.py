"""The private seams of mosaicml-streaming that data/mixture rests on: another release may move them."""

import inspect

import pytest
from streaming.base import dataset as dataset_module
from streaming.base import stream as stream_module
from streaming.base.dataset import StreamingDataset
from streaming.base.format.mds import reader as reader_module
from streaming.base.shared import prefix
from streaming.base.spanner import Spanner

from data.mixture.spans import ShardSpans, quick_opening


def test_iteration_takes_its_ids_and_its_items_from_methods_that_we_replace() -> None:
    source = inspect.getsource(StreamingDataset.__iter__)
    assert "sample_ids = self._get_work(epoch, sample_in_epoch)" in source
    assert "yield from map(self.__getitem__, self._each_sample_id(it))" in source
    assert "prepare_future.add_done_callback(self.on_exception)" in source
    assert "ready_future.add_done_callback(self.on_exception)" in source


def test_the_thread_that_goes_ahead_only_finds_and_prepares_the_shard_of_an_id_and_skips_minus_one() -> None:
    source = inspect.getsource(StreamingDataset._prepare_thread)
    assert source.count("sample_id") == source.count("sample_ids") + 3
    assert "sample_id = it.sample_ids[it.prepare_index]" in source
    assert "if sample_id == -1:" in source
    assert "shard_id, _ = self.spanner[sample_id]" in source
    assert "self.prepare_shard(shard_id, False)" in source
    assert "samples_ahead = it.prepare_index - it.yield_index" in source
    assert "len(sample_ids)" in inspect.getsource(dataset_module._Iterator.__init__)


def test_three_threads_share_an_iterator_and_each_says_that_it_exits() -> None:
    source = inspect.getsource(StreamingDataset.__iter__)
    assert "self._executor.submit(self._prepare_thread, it)" in source
    assert "self._executor.submit(self._ready_thread, it)" in source
    for thread in ("_prepare_thread", "_ready_thread", "_each_sample_id"):
        source = inspect.getsource(getattr(StreamingDataset, thread))
        assert "if it.should_exit():" in source
        assert "self._event.is_set():" in source
        assert source.rstrip().endswith("it.on_exit()")


def test_a_shard_that_is_there_is_local_and_a_late_reader_fetches_it_again() -> None:
    assert {state.name for state in dataset_module._ShardState} == {"INVALID", "REMOTE", "PREPARING", "LOCAL"}
    assert "_ShardState.LOCAL if size else _ShardState.REMOTE" in inspect.getsource(StreamingDataset.__init__)
    source = inspect.getsource(StreamingDataset.get_item)
    assert "except FileNotFoundError" in source
    assert "self.prepare_shard(shard_id)" in source
    assert list(inspect.signature(StreamingDataset.prepare_shard).parameters) == ["self", "shard_id", "blocking"]


def test_hashes_are_checked_when_a_shard_has_been_fetched_or_unpacked() -> None:
    assert "if self.validate_hash:" in inspect.getsource(stream_module.Stream._prepare_shard_part)
    source = inspect.getsource(stream_module.Stream._decompress_shard_part)
    assert "if self.validate_hash:" in source
    assert "tmp_filename = raw_filename + '.tmp'" in source  # beside the name that it is told


def test_what_is_replaced_while_a_dataset_opens_is_put_back() -> None:
    assert "self.spanner = Spanner(self.samples_per_shard)" in inspect.getsource(StreamingDataset.__init__)
    assert "args = deepcopy(obj)" in inspect.getsource(reader_module.MDSReader.from_json)
    before = dataset_module.Spanner, reader_module.deepcopy
    with pytest.raises(KeyError), quick_opening():
        assert dataset_module.Spanner is ShardSpans
        raise KeyError
    assert (dataset_module.Spanner, reader_module.deepcopy) == before
    assert before[0] is Spanner


def test_a_number_is_looked_for_by_opening_blocks_and_the_last_one_is_kept() -> None:
    source = inspect.getsource(prefix)
    assert source.count("SharedMemory(name") == 3
    assert "return prefix_int, shm" in source
