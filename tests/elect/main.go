// elect: client-go's leader election, as everybody uses it, to stand beside Quorate's own.
//
//	elect candidate   takes part until it is killed; a line of JSON for each belief in being the leader
//	elect handovers   candidates in one process; the leader resigns, again and again; milliseconds, one a line
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

var (
	lease    = flag.String("lease", "elected", "the Lease, in namespace default")
	identity = flag.String("identity", "", "of the candidate")
	duration = flag.Duration("duration", 15*time.Second, "LeaseDuration; the others in client-go's own proportion to it")
	// The negative control of those who look for two leaders at once.
	deaf       = flag.Bool("deaf", false, "leads without asking anybody")
	candidates = flag.Int("candidates", 2, "of handovers")
	number     = flag.Int("number", 10, "of handovers")
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: elect candidate|handovers [flags]")
	}
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
	switch os.Args[1] {
	case "candidate":
		candidate()
	case "handovers":
		handovers()
	default:
		log.Fatalf("elect %s: there is no such command", os.Args[1])
	}
}

func client() *kubernetes.Clientset {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		log.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(config)
}

func config(client *kubernetes.Clientset, identity string, led func(context.Context), stopped func()) leaderelection.LeaderElectionConfig {
	return leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: *lease, Namespace: "default"},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		LeaseDuration: *duration, RenewDeadline: *duration * 2 / 3, RetryPeriod: *duration * 2 / 15, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: led, OnStoppedLeading: stopped},
	}
}

// A belief: the candidate led at this time of CLOCK_BOOTTIME, in nanoseconds.
type belief struct {
	Who string `json:"who"`
	At  int64  `json:"at"`
}

// candidate takes part, and resigns on SIGTERM. While it leads, it says so every few milliseconds: who is killed says
// nothing any more.
func candidate() {
	running, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	lead := func(leading context.Context) {
		lines := json.NewEncoder(os.Stdout)
		for leading.Err() == nil {
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
				log.Fatal(err)
			}
			// Whoever is stopped between these two lines has said what was so before.
			if leading.Err() == nil {
				if err := lines.Encode(belief{Who: *identity, At: now.Nano()}); err != nil {
					log.Fatal(err)
				}
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	if *deaf {
		lead(running)
		return
	}
	client := client()
	for running.Err() == nil {
		leaderelection.RunOrDie(running, config(client, *identity, lead, func() {}))
	}
}

// handovers measures the time from a leader's resignation until another one leads.
func handovers() {
	type leader struct {
		who    int
		at     time.Time
		resign context.CancelFunc
	}
	leaders := make(chan leader, *candidates)
	var all sync.WaitGroup
	running, stop := context.WithCancel(context.Background())
	again := make([]chan struct{}, *candidates)
	for who := range *candidates {
		client := client()
		again[who] = make(chan struct{}, 1)
		all.Go(func() {
			for running.Err() == nil {
				term, resign := context.WithCancel(running)
				lead := func(context.Context) { leaders <- leader{who, time.Now(), resign} }
				leaderelection.RunOrDie(term, config(client, fmt.Sprint("c", who), lead, func() {}))
				resign()
				// Not before another one leads.
				select {
				case <-again[who]:
				case <-running.Done():
				}
			}
		})
	}
	present := <-leaders
	for n := range *number {
		// All others wait by now, and are at any phase of their retries.
		time.Sleep(*duration/5 + time.Duration(n*137%1000)*time.Millisecond)
		began := time.Now()
		present.resign()
		before := present.who
		present = <-leaders
		again[before] <- struct{}{}
		fmt.Printf("%.3f\n", float64(present.at.Sub(began).Microseconds())/1e3)
	}
	stop()
	// They give up at the latest when a retry is due.
	go func() {
		for range leaders {
		}
	}()
	all.Wait()
}
