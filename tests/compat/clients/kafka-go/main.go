// Speaks to a broker with kafka-go, of segmentio: see ../lines.py.
package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"millstream/clients/lines"

	"github.com/segmentio/kafka-go"
)

var always = context.Background()

var codecs = map[string]kafka.Compression{
	"gzip":   kafka.Gzip,
	"snappy": kafka.Snappy,
	"lz4":    kafka.Lz4,
	"zstd":   kafka.Zstd,
}

// told makes the broker's own errors what the driver knows.
func told(err error) error {
	var code kafka.Error
	var many kafka.WriteErrors
	if errors.As(err, &many) {
		for _, one := range many {
			if one != nil {
				err = one
			}
		}
	}
	if errors.As(err, &code) {
		return lines.Refused{Code: int16(code), Message: err.Error()}
	}
	return err
}

func client(broker string) *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(broker), Timeout: 30 * time.Second}
}

func produce(words []string) error {
	if len(words) > 3 && words[3] == "true" {
		return lines.NotOffered("its producer is not idempotent")
	}
	records, err := lines.Records()
	if err != nil {
		return err
	}
	writer := &kafka.Writer{
		Addr:         kafka.TCP(words[0]),
		Topic:        words[1],
		RequiredAcks: kafka.RequireAll,
		Compression:  codecs[words[2]],
		BatchTimeout: 200 * time.Millisecond,
		BatchBytes:   2_000_000,
		Balancer: kafka.BalancerFunc(func(message kafka.Message, _ ...int) int {
			return message.WriterData.(int)
		}),
	}
	var messages []kafka.Message
	for _, record := range records {
		message := kafka.Message{
			Key:        record.Key,
			Value:      record.Value,
			Time:       time.UnixMilli(record.Timestamp),
			WriterData: int(record.Partition),
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, kafka.Header{Key: header.Name, Value: header.Value})
		}
		messages = append(messages, message)
	}
	if err := writer.WriteMessages(always, messages...); err != nil {
		return told(err)
	}
	// It tells no offsets.
	lines.Say(lines.Answer{"sent": len(messages)})
	return writer.Close()
}

func consume(words []string) error {
	numbers, err := partitions(words[0], words[1])
	if err != nil {
		return err
	}
	for _, number := range numbers {
		conn, err := kafka.DialLeader(always, "tcp", words[0], words[1], number)
		if err != nil {
			return told(err)
		}
		start, end, err := conn.ReadOffsets()
		if err != nil {
			return told(err)
		}
		conn.Close()
		if start == end {
			continue
		}
		reader := kafka.NewReader(kafka.ReaderConfig{
			Brokers:   []string{words[0]},
			Topic:     words[1],
			Partition: number,
			MaxBytes:  2_000_000,
			MaxWait:   500 * time.Millisecond,
		})
		if err := reader.SetOffset(start); err != nil {
			return told(err)
		}
		for at := start - 1; at+1 < end; {
			message, err := reader.ReadMessage(always)
			if err != nil {
				return told(err)
			}
			at = message.Offset
			one := lines.Record{
				Partition: int32(message.Partition),
				Offset:    message.Offset,
				Timestamp: message.Time.UnixMilli(),
				Key:       message.Key,
				Value:     message.Value,
			}
			for _, header := range message.Headers {
				one.Headers = append(one.Headers, lines.Header{Name: header.Key, Value: header.Value})
			}
			lines.SayRecord(one)
		}
		reader.Close()
	}
	return nil
}

func create(words []string) error {
	config := kafka.TopicConfig{
		Topic:             words[1],
		NumPartitions:     int(lines.Number(words[2])),
		ReplicationFactor: 1,
	}
	for name, value := range lines.Settings(words[3]) {
		config.ConfigEntries = append(config.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	answer, err := client(words[0]).CreateTopics(always, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{config}})
	if err == nil {
		err = answer.Errors[words[1]]
	}
	if err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"done": true})
	return nil
}

func list(words []string) error {
	answer, err := client(words[0]).Metadata(always, &kafka.MetadataRequest{})
	if err != nil {
		return told(err)
	}
	names := []string{}
	for _, topic := range answer.Topics {
		names = append(names, topic.Name)
	}
	slices.Sort(names)
	lines.Say(lines.Answer{"topics": names})
	return nil
}

func partitions(broker, topic string) ([]int, error) {
	answer, err := client(broker).Metadata(always, &kafka.MetadataRequest{Topics: []string{topic}})
	if err == nil {
		err = answer.Topics[0].Error
	}
	if err != nil {
		return nil, told(err)
	}
	numbers := []int{}
	for _, partition := range answer.Topics[0].Partitions {
		numbers = append(numbers, partition.ID)
	}
	slices.Sort(numbers)
	return numbers, nil
}

func describe(words []string) error {
	numbers, err := partitions(words[0], words[1])
	if err != nil {
		return err
	}
	lines.Say(lines.Answer{"partitions": numbers})
	return nil
}

func configs(words []string) error {
	resource := kafka.DescribeConfigRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: words[1]}
	request := kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{resource}}
	answer, err := client(words[0]).DescribeConfigs(always, &request)
	if err == nil {
		err = answer.Resources[0].Error
	}
	if err != nil {
		return told(err)
	}
	values := map[string]string{}
	for _, entry := range answer.Resources[0].ConfigEntries {
		values[entry.ConfigName] = entry.ConfigValue
	}
	lines.Say(lines.Answer{"configs": values})
	return nil
}

func alter(words []string) error {
	request := kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic,
		ResourceName: words[1],
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{
			Name: words[2], Value: words[3], ConfigOperation: kafka.ConfigOperationSet,
		}},
	}}}
	answer, err := client(words[0]).IncrementalAlterConfigs(always, &request)
	if err == nil {
		err = answer.Resources[0].Error
	}
	if err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"done": true})
	return nil
}

func remove(words []string) error {
	answer, err := client(words[0]).DeleteTopics(always, &kafka.DeleteTopicsRequest{Topics: []string{words[1]}})
	if err == nil {
		err = answer.Errors[words[1]]
	}
	if err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"done": true})
	return nil
}

func offsets(words []string) error {
	numbers, err := partitions(words[0], words[1])
	if err != nil {
		return err
	}
	found := map[string]int64{}
	for _, number := range numbers {
		conn, err := kafka.DialLeader(always, "tcp", words[0], words[1], number)
		if err != nil {
			return told(err)
		}
		offset, err := conn.ReadOffset(time.UnixMilli(lines.Number(words[2])))
		if err != nil {
			return told(err)
		}
		conn.Close()
		found[strconv.Itoa(number)] = offset
	}
	lines.Say(lines.Answer{"offsets": found})
	return nil
}

func main() {
	lines.Main("github.com/segmentio/kafka-go", map[string]lines.Verb{
		"produce":  produce,
		"consume":  consume,
		"create":   create,
		"list":     list,
		"describe": describe,
		"configs":  configs,
		"alter":    alter,
		"delete":   remove,
		"offsets":  offsets,
		"unknown":  describe,
	})
}
