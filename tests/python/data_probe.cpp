// Datasets and samplers for datasets_test.py: a JSON object in, JSON lines out.
//   data_probe datasets   config and sizes -> a line a sample
//   data_probe sampler    kind and options -> a line a batch, null at the end of an epoch
//   data_probe preprocess options of preprocess-data with NullTokenizer -> the report
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/data/build.h"
#include "viaduct/data/preprocess.h"
#include "viaduct/data/sampler.h"

namespace {

using namespace viaduct;
using namespace viaduct::data;

template <class Numbers>
Json array_of(const Numbers& numbers) {
  Json array = Json::array();
  for (const auto number : numbers) array.items().push_back(Json(static_cast<int64_t>(number)));
  return array;
}

bool flag(const Json& json, const char* key, bool otherwise) {
  return json.contains(key) ? json.at(key).as_bool() : otherwise;
}

std::optional<int64_t> optional_int(const Json& json) {
  return json.is_null() ? std::nullopt : std::optional(json.as_int());
}

std::optional<Blend> blend_of(const Json& json) {
  if (json.is_null()) return std::nullopt;
  Blend blend;
  for (const Json& path : json.items().at(0).items()) blend.paths.push_back(path.as_string());
  if (const Json& weights = json.items().at(1); !weights.is_null()) {
    blend.weights.emplace();
    for (const Json& weight : weights.items()) blend.weights->push_back(weight.as_double());
  }
  return blend;
}

GPTDatasetConfig config_of(const Json& json) {
  GPTDatasetConfig config;
  config.random_seed = json.at("random_seed").as_int();
  config.sequence_length = json.at("sequence_length").as_int();
  if (const Json* split = json.find("split")) config.split = split->as_string();
  if (const Json* blend = json.find("blend")) config.blend = blend_of(*blend);
  if (const Json* blends = json.find("blend_per_split")) {
    config.blend_per_split.emplace();
    for (size_t i = 0; i < kNumSplits; ++i) (*config.blend_per_split)[i] = blend_of(blends->items().at(i));
  }
  if (const Json* cache = json.find("path_to_cache")) config.path_to_cache = cache->as_string();
  if (const Json* threads = json.find("num_dataset_builder_threads"))
    config.num_dataset_builder_threads = static_cast<int>(threads->as_int());
  config.multiple_validation_sets = flag(json, "multiple_validation_sets", false);
  config.reset_position_ids = flag(json, "reset_position_ids", false);
  config.reset_attention_mask = flag(json, "reset_attention_mask", false);
  config.eod_mask_loss = flag(json, "eod_mask_loss", false);
  config.create_attention_mask = flag(json, "create_attention_mask", true);
  config.drop_last_partial_validation_sequence = flag(json, "drop_last_partial_validation_sequence", true);
  config.add_extra_token_to_sequence = flag(json, "add_extra_token_to_sequence", true);
  config.inter_document_masking = flag(json, "inter_document_masking", false);
  config.fast_cache_load = flag(json, "only_cached", false);
  const Json& tokenizer = json.at("tokenizer");
  config.tokenizer.unique_identifiers = tokenizer.at("unique_identifiers");
  config.tokenizer.eod = tokenizer.at("eod").as_int();
  config.tokenizer.pad = optional_int(tokenizer.at("pad"));
  config.tokenizer.vocab_size = tokenizer.at("vocab_size").as_int();
  return config;
}

void datasets(const Json& json) {
  SplitSizes sizes;
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = optional_int(json.at("sizes").items().at(i));
  const DatasetSplits splits = build_gpt_datasets(config_of(json), sizes);
  const int64_t most = json.at("samples").as_int();
  for (const auto& split : splits)
    for (const auto& dataset : split) {
      for (int64_t i = 0; i < std::min(dataset->size(), most); ++i) {
        const Sample sample = dataset->get_item(i);
        Json line = Json::object();
        line.set("tokens", array_of(sample.tokens));
        line.set("labels", array_of(sample.labels));
        line.set("loss_mask", array_of(sample.loss_mask));
        line.set("position_ids", array_of(sample.position_ids));
        if (!sample.attention_mask.empty()) line.set("attention_mask", array_of(sample.attention_mask));
        if (!sample.cu_seqlens.empty()) {
          line.set("cu_seqlens", array_of(sample.cu_seqlens));
          line.set("max_seqlen", sample.max_seqlen);
        }
        if (sample.dataset_id) line.set("dataset_id", *sample.dataset_id);
        std::cout << line.dump() << "\n";
      }
      std::cout << Json(dataset->size()).dump() << "\n";
    }
}

void sampler(const Json& json) {
  SamplerOptions options;
  options.total_samples = json.at("total_samples").as_int();
  options.consumed_samples = json.at("consumed_samples").as_int();
  options.micro_batch_size = json.at("micro_batch_size").as_int();
  options.data_parallel_rank = json.at("data_parallel_rank").as_int();
  options.data_parallel_size = json.at("data_parallel_size").as_int();
  options.drop_last = flag(json, "drop_last", true);
  const std::string& kind = json.at("kind").as_string();
  std::unique_ptr<Sampler> sampler;
  if (kind == "single") {
    sampler = single_sampler(options);
  } else if (kind == "cyclic") {
    sampler = cyclic_sampler(options, json.at("data_sharding").as_bool());
  } else {
    BatchSamplerOptions batch;
    batch.global_batch_size = json.at("global_batch_size").as_int();
    batch.pad_samples_to_global_batch_size = json.at("pad_samples_to_global_batch_size").as_bool();
    batch.shuffle = json.at("shuffle").as_bool();
    batch.seed = json.at("seed").as_int();
    sampler = batch_sampler(options, batch);
  }
  for (int64_t epoch = 0; epoch < json.at("epochs").as_int(); ++epoch) {
    if (epoch > 0) sampler->restart();
    while (const auto batch = sampler->next()) std::cout << array_of(*batch).dump() << "\n";
    std::cout << "null\n";
  }
  std::cout << sampler->consumed_samples() << "\n";
}

void run_preprocess(const Json& json) {
  PreprocessOptions options;
  options.input = input_files(json.at("input").as_string());
  options.json_keys.clear();
  for (const Json& key : json.at("json_keys").items()) options.json_keys.push_back(key.as_string());
  options.output_prefix = json.at("output_prefix").as_string();
  options.append_eod = json.at("append_eod").as_bool();
  options.workers = static_cast<int>(json.at("workers").as_int());
  options.partitions = static_cast<int>(json.at("partitions").as_int());
  options.keep_sequential_samples = json.at("keep_sequential_samples").as_bool();
  const auto report = preprocess(options, null_encoder(json.at("vocab_size").as_int()));
  std::cout << report.documents << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc == 2 ? argv[1] : "";
  try {
    const std::string text(std::istreambuf_iterator<char>(std::cin), {});
    const Json json = Json::parse(text, "standard input");
    if (command == "datasets") {
      datasets(json);
    } else if (command == "sampler") {
      sampler(json);
    } else if (command == "preprocess") {
      run_preprocess(json);
    } else {
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
