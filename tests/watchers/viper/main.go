// Says what viper read: first, and each time that viper says that the file has changed.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/viper"
)

func main() {
	// What viper has to complain of is a line as well, which no test expects.
	complaints := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelWarn})
	config := viper.NewWithOptions(viper.WithLogger(slog.New(complaints)))
	config.SetConfigFile(os.Args[1])
	if err := config.ReadInConfig(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	say(config)
	config.OnConfigChange(func(fsnotify.Event) { say(config) })
	config.WatchConfig()
	fmt.Println("watches")
	select {}
}

// The file has a value and many copies of it: one that is cut short, or made of two, has not.
func say(config *viper.Viper) {
	value, copies := config.GetString("value"), config.GetStringSlice("copies")
	for _, other := range copies {
		if other != value {
			fmt.Println("mixed:", value, other)
		}
	}
	fmt.Println("saw", value, len(copies))
}
